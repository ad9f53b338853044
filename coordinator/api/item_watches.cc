#include "coordinator/api/item_watches.h"

#include <limits>
#include <optional>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/status.h"
#include "coordinator/api/errors.h"
#include "coordinator/api/item_events.h"

namespace whalepod {
namespace {

// What is read is in memory whole: R1's longest answers take about ten megabytes.
constexpr size_t kMostWatched = 128, kMostOfOneKey = 64;

}  // namespace

v1::JournalEnd SeveralAnswers(uint32_t choices) {
  return EndOf(absl::FailedPreconditionError(
      absl::StrCat("the item has ", choices, " answers; one alone can be watched")));
}

ItemWatches::ItemWatches(JobStore* store, const Clock* clock)
    : store_(store), clock_(clock), pool_(/*threads=*/1, std::numeric_limits<size_t>::max()) {
  listener_ = store_->AddListener([this](const std::string& job_id) { LookAfter(job_id); });
}

ItemWatches::~ItemWatches() { store_->RemoveListener(listener_); }

absl::StatusOr<std::shared_ptr<ResumableStream>> ItemWatches::Open(const std::string& tenant,
                                                                   const ItemId& id, bool* made) {
  absl::StatusOr<v1::JobItem> item = store_->Item(tenant, id.first, id.second);
  if (!item.ok()) return item.status();
  ASSIGN_OR_RETURN(const std::shared_ptr<ResumableStream> stream, FindOrAdd(tenant, id, made));
  if (!*made) return stream;
  // It may have ended before the stream could be found; what ends from now on is looked after.
  if (item->state() == v1::JOB_ITEM_STATE_PENDING) item = store_->Item(tenant, id.first, id.second);
  Settle(id.second, item, stream.get());
  return stream;
}

absl::StatusOr<std::shared_ptr<ResumableStream>> ItemWatches::FindOrAdd(const std::string& tenant,
                                                                        const ItemId& id,
                                                                        bool* made) {
  std::vector<std::shared_ptr<ResumableStream>> others;
  *made = true;
  {
    std::lock_guard lock(mu_);
    if (const auto it = watches_.find(id); it != watches_.end()) {
      // One that failed may have met a disk that did.
      auto stream = it->second.stream.lock();
      *made = stream == nullptr || stream->failed();
      if (!*made) return stream;
    }
    size_t mine = 0;
    for (auto it = watches_.begin(); it != watches_.end();) {
      auto stream = it->second.stream.lock();
      if (stream == nullptr) {
        it = watches_.erase(it);
        continue;
      }
      if (it->second.tenant == tenant) ++mine;
      others.push_back(std::move(stream));
      ++it;
    }
    if (others.size() < kMostWatched && mine < kMostOfOneKey) {
      auto stream = std::make_shared<ResumableStream>(clock_);
      watches_[id] = {tenant, stream};
      return stream;
    }
  }
  // Readers that have taken nothing for long give way to who asks next.
  for (const auto& other : others) other->CheckReaders(clock_->Now() - kReaderStall);
  return WithRetryDelay(absl::ResourceExhaustedError(absl::StrCat(
                            "items of jobs are watched by many: at most ", kMostWatched,
                            " can be at a time, ", kMostOfOneKey, " of them by one API key")),
                        "TOO_MANY_WATCHED", kRetryMs);
}

std::shared_ptr<ResumableStream> ItemWatches::Find(const ItemId& id) {
  std::lock_guard lock(mu_);
  const auto it = watches_.find(id);
  return it == watches_.end() ? nullptr : it->second.stream.lock();
}

std::map<ItemId, ItemWatches::Watch> ItemWatches::OfJob(const std::string& job_id) {
  std::lock_guard lock(mu_);
  std::map<ItemId, Watch> found;
  for (auto it = watches_.lower_bound({job_id, 0});
       it != watches_.end() && it->first.first == job_id; ++it) {
    found.insert(*it);
  }
  return found;
}

// From the store's listener too: does not wait.
void ItemWatches::LookAfter(const std::string& job_id) {
  {
    std::lock_guard lock(mu_);
    const auto it = watches_.lower_bound({job_id, 0});
    if (it == watches_.end() || it->first.first != job_id) return;
    if (!looking_.insert(job_id).second) return;
  }
  CHECK(pool_.Run([this, job_id] { Look(job_id); }));
}

void ItemWatches::Look(const std::string& job_id) {
  {
    std::lock_guard lock(mu_);
    looking_.erase(job_id);
  }
  for (const auto& [id, watch] : OfJob(job_id)) {
    const std::shared_ptr<ResumableStream> stream = watch.stream.lock();
    if (stream == nullptr || stream->over()) continue;
    Settle(id.second, store_->Item(watch.tenant, id.first, id.second), stream.get());
  }
}

void ItemWatches::Settle(uint32_t index, const absl::StatusOr<v1::JobItem>& item,
                         ResumableStream* stream) {
  if (!item.ok()) return stream->Extend(0, {}, EndOf(item.status()));
  if (item->state() == v1::JOB_ITEM_STATE_PENDING) return;
  const int choices = item->answer().choices_size();
  if (choices > 1) return stream->Extend(0, {}, SeveralAnswers(static_cast<uint32_t>(choices)));
  const uint32_t first = stream->events();
  stream->Extend(first, EventsOf(item->answer(), first), EndOf(*item));
}

}  // namespace whalepod
