#include "coordinator/usage/usage_store.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "base/status.h"
#include "coordinator/storage/store_file.h"
#include "coordinator/usage/day.h"
#include "coordinator/usage/sums.h"

namespace whalepod {
namespace {

// Days as day.h's, sources those of inference.proto, cost in dollars.
constexpr char kSchema[] = R"(
CREATE TABLE accounts(
  day TEXT NOT NULL, api_key TEXT NOT NULL, source INTEGER NOT NULL, requests INTEGER NOT NULL,
  input INTEGER NOT NULL, cached_input INTEGER NOT NULL, output INTEGER NOT NULL,
  reasoning INTEGER NOT NULL, cost REAL NOT NULL, PRIMARY KEY(day, api_key, source)) WITHOUT ROWID;
)";

constexpr StoreFormat kFormat = {
    .name = "usage store",
    .application = 0x5750'5553,  // "WPUS"
    .version = 1,
    .schema = kSchema,
};

}  // namespace

absl::StatusOr<std::unique_ptr<UsageStore>> UsageStore::Open(Options options) {
  std::unique_ptr<UsageStore> store(new UsageStore(std::move(options)));
  const Options& o = store->options_;
  if (o.path.empty()) return store;
  ASSIGN_OR_RETURN(store->database_, OpenStore(o.path, kFormat, o.most_pages));
  if (o.flush_every > Duration(0)) {
    store->writer_ = std::thread([raw = store.get()] { raw->WriteOften(); });
  }
  return store;
}

UsageStore::~UsageStore() {
  {
    std::lock_guard lock(mu_);
    stopping_ = true;
  }
  wake_.notify_all();
  if (writer_.joinable()) writer_.join();
  const absl::Status status = Flush();
  if (status.ok()) return;
  uint64_t requests = 0;
  for (const auto& [account, row] : pending_) requests += row.requests();
  spdlog::error("{}: the usage of {} requests is lost", status.ToString(), requests);
}

std::string UsageStore::Today() const { return DayOf(options_.now_ms()); }

void UsageStore::Gather(const v1::UsageRow& more, Sums* sums) {
  v1::UsageRow& row = (*sums)[{more.day(), more.api_key(), more.source()}];
  row.set_day(more.day());
  row.set_api_key(more.api_key());
  row.set_source(more.source());
  AddRow(more, &row);
}

void UsageStore::Add(const std::string& api_key, v1::UsageSource source, const v1::Usage& usage) {
  v1::UsageRow row;
  row.set_day(Today());
  row.set_api_key(api_key);
  row.set_source(source);
  row.set_requests(1);
  row.set_input_tokens(usage.prompt_tokens() - usage.cached_tokens());
  row.set_cached_input_tokens(usage.cached_tokens());
  row.set_output_tokens(usage.completion_tokens());
  row.set_reasoning_tokens(usage.reasoning_tokens());
  row.set_cost_dollars(usage.cost_dollars());
  bool first = false;
  {
    std::lock_guard lock(mu_);
    first = pending_.empty();
    Gather(row, &pending_);
  }
  if (first) wake_.notify_one();
}

void UsageStore::WriteOften() {
  std::unique_lock lock(mu_);
  while (!stopping_) {
    wake_.wait(lock, [this] { return stopping_ || !pending_.empty(); });
    wake_.wait_for(lock, options_.flush_every, [this] { return stopping_; });
    if (stopping_) return;
    lock.unlock();
    Flush().IgnoreError();  // logged, and tried again
    lock.lock();
  }
}

absl::Status UsageStore::Flush() {
  std::lock_guard writing(database_mu_);
  if (database_ == nullptr) return absl::OkStatus();
  Sums sums;
  {
    std::lock_guard lock(mu_);
    sums.swap(pending_);
  }
  if (sums.empty()) return absl::OkStatus();
  const absl::Status status = database_->Transaction([&]() -> absl::Status {
    for (const auto& [account, row] : sums) RETURN_IF_ERROR(WriteRow(row));
    return absl::OkStatus();
  });
  if (!status.ok()) {
    std::lock_guard lock(mu_);
    for (const auto& [account, row] : sums) Gather(row, &pending_);
  }
  NoteFlush(status);
  return status;
}

void UsageStore::NoteFlush(const absl::Status& status) {
  if (!status.ok() && !failing_) {
    spdlog::error("{}; usage is kept in memory, and tried again", status.ToString());
  }
  if (status.ok() && failing_) spdlog::info("usage is written to {} again", options_.path);
  failing_ = !status.ok();
}

absl::Status UsageStore::WriteRow(const v1::UsageRow& row) {
  Database::Query query = database_->Prepare(
      "INSERT INTO accounts(day, api_key, source, requests, input, cached_input, output, "
      "reasoning, cost) VALUES(?, ?, ?, ?, ?, ?, ?, ?, ?) "
      "ON CONFLICT(day, api_key, source) DO UPDATE SET requests=requests+excluded.requests, "
      "input=input+excluded.input, cached_input=cached_input+excluded.cached_input, "
      "output=output+excluded.output, reasoning=reasoning+excluded.reasoning, "
      "cost=cost+excluded.cost");
  const auto count = [](uint64_t tokens) { return static_cast<int64_t>(tokens); };
  query.Bind(row.day()).Bind(row.api_key()).Bind(row.source()).Bind(count(row.requests()));
  query.Bind(count(row.input_tokens())).Bind(count(row.cached_input_tokens()));
  query.Bind(count(row.output_tokens())).Bind(count(row.reasoning_tokens()));
  return query.BindReal(row.cost_dollars()).Run();
}

absl::Status UsageStore::ReadRows(const UsageQuery& asked, Sums* rows) {
  Database::Query query = database_->Prepare(
      "SELECT day, api_key, source, requests, input, cached_input, output, reasoning, cost "
      "FROM accounts WHERE day>=? AND day<=? AND (? OR api_key=?) "
      "ORDER BY day, api_key, source LIMIT ?");
  query.Bind(asked.from_day).Bind(asked.to_day).Bind(asked.api_key.has_value() ? 0 : 1);
  query.Bind(asked.api_key.value_or("")).Bind(int64_t{asked.most} + 1);
  for (;;) {
    ASSIGN_OR_RETURN(const bool found, query.Next());
    if (!found) return absl::OkStatus();
    const auto count = [&query](int column) { return static_cast<uint64_t>(query.Int(column)); };
    v1::UsageRow row;
    row.set_day(query.Bytes(0));
    row.set_api_key(query.Bytes(1));
    row.set_source(static_cast<v1::UsageSource>(query.Int(2)));
    row.set_requests(count(3));
    row.set_input_tokens(count(4));
    row.set_cached_input_tokens(count(5));
    row.set_output_tokens(count(6));
    row.set_reasoning_tokens(count(7));
    row.set_cost_dollars(query.Real(8));
    Gather(row, rows);
  }
}

absl::StatusOr<std::vector<v1::UsageRow>> UsageStore::Read(const UsageQuery& query) {
  Sums sums;
  {
    // No flush is under way: what is not in the file is pending.
    std::lock_guard reading(database_mu_);
    if (database_ != nullptr) RETURN_IF_ERROR(ReadRows(query, &sums));
    std::lock_guard lock(mu_);
    for (const auto& [account, row] : pending_) {
      const bool asked = account.day >= query.from_day && account.day <= query.to_day &&
                         account.api_key == query.api_key.value_or(account.api_key);
      if (asked) Gather(row, &sums);
    }
  }
  if (sums.size() > query.most) {
    return absl::ResourceExhaustedError(absl::StrCat("more than ", query.most, " accounts from ",
                                                     query.from_day, " to ", query.to_day,
                                                     ": ask for fewer days"));
  }
  std::vector<v1::UsageRow> rows;
  for (auto& [account, row] : sums) rows.push_back(std::move(row));
  return rows;
}

}  // namespace whalepod
