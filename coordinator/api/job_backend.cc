#include "coordinator/api/job_backend.h"

#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/status.h"
#include "coordinator/api/batch_format.h"
#include "coordinator/api/errors.h"
#include "coordinator/api/generation.h"
#include "coordinator/api/item_events.h"
#include "coordinator/api/limits.h"
#include "coordinator/api/openai_response.h"

namespace whalepod {
namespace {

// Who reads them has each answer once more in memory.
constexpr size_t kMostWatched = 256;
constexpr auto kStall = std::chrono::seconds(30);

// FNV-1a-64.
uint64_t SeedOf(const PendingItem& item) {
  uint64_t hash = 0xcbf29ce484222325;
  for (const char c : absl::StrCat(item.job_id, "/", item.index)) {
    hash = (hash ^ static_cast<uint8_t>(c)) * 0x100000001b3;
  }
  return hash;
}

bool TryAgain(const absl::Status& status) {
  return absl::IsUnavailable(status) || absl::IsResourceExhausted(status) ||
         absl::IsCancelled(status);
}

absl::Status SeveralAnswers(uint32_t choices) {
  return absl::FailedPreconditionError(
      absl::StrCat("the item has ", choices, " answers; one alone can be watched"));
}

}  // namespace

// Holds itself until the generation has ended. All but the writer's calls are on the pool, whose
// one thread keeps their order.
class JobBackend::Call final : public ItemCall,
                               public ResponseWriter,
                               public std::enable_shared_from_this<Call> {
 public:
  Call(JobBackend* backend, const PendingItem& item, const OpenAiRequest& request, Done done)
      : backend_(backend),
        id_(item.job_id, item.index),
        done_(std::move(done)),
        request_(request.generate),
        response_(request, Choices(), backend->frontend_->model()->text.tokenizer,
                  backend->now_seconds_()),
        generation_(std::make_shared<Generation>(this, backend->frontend_->clock(),
                                                 backend->frontend_->NewRecord(Transport::kJob))) {
    answer_.set_status_code(200);
    for (uint32_t i = 0; i < Choices(); ++i) answer_.add_choices();
  }

  void Begin(const std::string& tenant) {
    self_ = shared_from_this();
    backend_->frontend_->Generate(
        generation_, std::shared_ptr<const v1::GenerateRequest>(self_, &request_), tenant);
  }
  void Cancel() override { generation_->Cancel(); }

  // At once, so that each token has a message of its own.
  bool Write(const v1::GenerateResponse& message, bool last) override {
    Later([this, message, last] {
      response_.Gather(message);
      Gather(message, &answer_);
      if (message.has_started()) TakeWatchers();
      Tell(message, last);
      if (!last) return;
      answer_.set_body(response_.Whole());
      End(std::move(answer_));
    });
    return true;
  }
  void Finish(const absl::Status& status) override {
    Later([this, status] {
      v1::JobAnswer answer = AnswerOfError(status);
      answer.set_request_id(answer_.request_id());
      Part(TryAgain(status) ? absl::UnavailableError("the item is begun anew")
                            : NoAnswer(id_.second, answer));
      if (TryAgain(status)) return End(status);
      End(std::move(answer));
    });
  }
  void Abandon() override {
    Later([this] { generation_->Cancel(); });
  }

  // Tells `stream` what there is by now, and what follows.
  void AddWatcher(const std::shared_ptr<ResumableStream>& stream) {
    if (Choices() > 1) return stream->Finish(SeveralAnswers(Choices()));
    stream->Restore(EventsOf(answer_), std::nullopt);
    watchers_.push_back(stream);
  }

 private:
  uint32_t Choices() const { return ChoicesOf(request_); }

  void Later(std::function<void()> work) {
    backend_->Later([self = shared_from_this(), work = std::move(work)] { work(); });
  }

  void TakeWatchers() {
    backend_->answering_[id_] = this;
    const auto [first, last] = backend_->waiting_.equal_range(id_);
    for (auto it = first; it != last; ++it) {
      if (const auto stream = it->second.stream.lock()) AddWatcher(stream);
    }
    backend_->waiting_.erase(first, last);
  }
  // What they had with Started when they came is not told again.
  void Tell(const v1::GenerateResponse& message, bool last) {
    if (watchers_.empty() || message.has_started()) return;
    const v1::GenerateResponse told = ForWatcher(message);
    for (const auto& watcher : watchers_) {
      if (const auto stream = watcher.lock()) stream->Write(told, last);
    }
  }
  void Part(const absl::Status& status) {
    for (const auto& watcher : watchers_) {
      if (const auto stream = watcher.lock()) stream->Finish(status);
    }
  }

  void End(absl::StatusOr<v1::JobAnswer> answer) {
    const std::shared_ptr<Call> self = std::move(self_);
    backend_->answering_.erase(id_);
    done_(std::move(answer));
  }

  JobBackend* const backend_;
  const ItemId id_;
  const Done done_;
  const v1::GenerateRequest request_;
  OpenAiResponse response_;
  v1::JobAnswer answer_;
  const std::shared_ptr<Generation> generation_;
  std::vector<std::weak_ptr<ResumableStream>> watchers_;
  std::shared_ptr<Call> self_;
};

JobBackend::JobBackend(Frontend* frontend, JobStore* store, std::function<int64_t()> now_seconds)
    : frontend_(frontend),
      store_(store),
      now_seconds_(std::move(now_seconds)),
      pool_(/*threads=*/1, std::numeric_limits<size_t>::max()) {
  listener_ = store_->AddListener(
      [this](const std::string& job_id) { Later([this, job_id] { LookAfter(job_id); }); });
}

JobBackend::~JobBackend() { store_->RemoveListener(listener_); }

void JobBackend::Later(std::function<void()> work) { CHECK(pool_.Run(std::move(work))); }

std::shared_ptr<ItemCall> JobBackend::Start(const PendingItem& item, Done done) {
  absl::StatusOr<OpenAiRequest> request = ParseItem(item.kind, item.request);
  if (!request.ok()) {
    done(AnswerOfError(request.status()));
    return nullptr;
  }
  v1::GenerateRequest& generate = request->generate;
  if (generate.priority() == 0) generate.set_priority(item.priority);
  if (!generate.options().has_seed()) generate.mutable_options()->set_seed(SeedOf(item));
  const auto call = std::make_shared<Call>(this, item, *request, std::move(done));
  call->Begin(item.tenant);
  return call;
}

absl::StatusOr<std::shared_ptr<ResumableStream>> JobBackend::Watch(const std::string& tenant,
                                                                   const std::string& job_id,
                                                                   uint32_t index) {
  RETURN_IF_ERROR(store_->Item(tenant, job_id, index).status());
  auto stream = std::make_shared<ResumableStream>(frontend_->clock());
  RETURN_IF_ERROR(Admit(stream));
  Later([this, id = ItemId(job_id, index), watcher = Watcher{tenant, stream}] {
    Await(id, watcher);
  });
  return stream;
}

absl::Status JobBackend::Admit(const std::shared_ptr<ResumableStream>& stream) {
  std::vector<std::shared_ptr<ResumableStream>> others;
  {
    std::lock_guard lock(mu_);
    std::erase_if(watched_, [](const auto& one) { return one.expired(); });
    if (watched_.size() < kMostWatched) {
      watched_.push_back(stream);
      return absl::OkStatus();
    }
    for (const auto& one : watched_) others.push_back(one.lock());
  }
  // Those that have taken nothing for long give way to who asks next.
  for (const auto& one : others) {
    if (one != nullptr) one->CheckReaders(frontend_->clock()->Now() - kStall);
  }
  return WithRetryDelay(absl::ResourceExhaustedError(absl::StrCat(
                            kMostWatched, " items of jobs are watched, as many as may be")),
                        "TOO_MANY_WATCHED", kRetryMs);
}

void JobBackend::Await(const ItemId& id, const Watcher& watcher) {
  const auto it = answering_.find(id);
  const std::shared_ptr<ResumableStream> stream = watcher.stream.lock();
  if (stream == nullptr) return;
  if (it != answering_.end()) return it->second->AddWatcher(stream);
  if (!Served(id, watcher)) waiting_.emplace(id, watcher);
}

void JobBackend::LookAfter(const std::string& job_id) {
  const auto first = waiting_.lower_bound({job_id, 0});
  for (auto it = first; it != waiting_.end() && it->first.first == job_id;) {
    it = Served(it->first, it->second) ? waiting_.erase(it) : std::next(it);
  }
}

bool JobBackend::Served(const ItemId& id, const Watcher& watcher) {
  const std::shared_ptr<ResumableStream> stream = watcher.stream.lock();
  if (stream == nullptr) return true;
  const absl::StatusOr<v1::JobItem> item = store_->Item(watcher.tenant, id.first, id.second);
  if (!item.ok()) {
    stream->Finish(item.status());
    return true;
  }
  if (item->state() == v1::JOB_ITEM_STATE_PENDING) return false;
  const int choices = item->answer().choices_size();
  if (choices > 1) {
    stream->Finish(SeveralAnswers(static_cast<uint32_t>(choices)));
  } else {
    stream->Restore(EventsOf(item->answer()), EndOf(*item));
  }
  return true;
}

}  // namespace whalepod
