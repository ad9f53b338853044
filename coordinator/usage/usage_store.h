// Accounts: what requests have used and what it cost, summed by day, API key and source.
#pragma once

#include <compare>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/clock.h"
#include "coordinator/storage/database.h"
#include "coordinator/usage/prices.h"
#include "whalepod/v1/inference.pb.h"

namespace whalepod {

// Which accounts. Days as day.h's, both included.
struct UsageQuery {
  std::string from_day, to_day;
  std::optional<std::string> api_key;  // the name of one; none: all
  uint32_t most = 20'000;              // rows: about two megabytes, and clients take four
};

// Thread-safe. Adding never waits for the disk: sums gather in memory, and a thread writes them, a
// transaction each time. What kill -9 can take is what was added since the last.
class UsageStore {
 public:
  struct Options {
    std::string path;                 // empty: in memory alone, from the start on
    std::function<int64_t()> now_ms;  // of the wall clock, since 1970
    Prices prices;
    Duration flush_every = std::chrono::seconds(1);  // 0: only Flush writes
    int64_t most_pages = 0;                          // of 4 KiB; 0: what the disk holds. For tests.
  };
  // Errors as OpenStore's.
  static absl::StatusOr<std::unique_ptr<UsageStore>> Open(Options options);
  // Writes what is not written yet; says in the log if that fails.
  ~UsageStore();

  // What all tokens cost as long as this process lives.
  const Prices& prices() const { return options_.prices; }
  bool in_memory() const { return database_ == nullptr; }
  // The day that it is.
  std::string Today() const;

  // One more request of the caller by this API key's name, today. `usage` with its cost.
  void Add(const std::string& api_key, v1::UsageSource source, const v1::Usage& usage);
  // Writes what was added. After an error, as Database's, all of it is kept for the next time. The
  // first of several errors is logged.
  absl::Status Flush();
  // By day, key and source, in this order; with what is not written yet. Waits for the disk.
  // RESOURCE_EXHAUSTED if there are more rows than asked for.
  absl::StatusOr<std::vector<v1::UsageRow>> Read(const UsageQuery& query);

 private:
  struct Account {
    std::string day, api_key;
    v1::UsageSource source = v1::USAGE_SOURCE_UNSPECIFIED;
    auto operator<=>(const Account&) const = default;
  };
  using Sums = std::map<Account, v1::UsageRow>;

  explicit UsageStore(Options options) : options_(std::move(options)) {}
  static void Gather(const v1::UsageRow& more, Sums* sums);
  void WriteOften();
  // With database_mu_ held.
  absl::Status WriteRow(const v1::UsageRow& row);
  absl::Status ReadRows(const UsageQuery& query, Sums* rows);
  void NoteFlush(const absl::Status& status);

  const Options options_;
  std::mutex database_mu_;  // before mu_
  std::unique_ptr<Database> database_;
  bool failing_ = false;

  std::mutex mu_;
  std::condition_variable wake_;
  Sums pending_;  // not written yet
  bool stopping_ = false;
  std::thread writer_;  // last: uses the rest
};

}  // namespace whalepod
