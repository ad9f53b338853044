#include "coordinator/api/job_backend.h"

#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/status.h"
#include "coordinator/api/batch_format.h"
#include "coordinator/api/generation.h"
#include "coordinator/api/item_events.h"
#include "coordinator/api/limits.h"
#include "coordinator/api/openai_response.h"

namespace whalepod {
namespace {

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
      Tell(message);
      if (!last) return;
      answer_.set_body(response_.Whole());
      End(std::move(answer_));
    });
    return true;
  }
  void Finish(const absl::Status& status) override {
    Later([this, status] {
      if (TryAgain(status)) return End(status);
      v1::JobAnswer answer = AnswerOfError(status);
      answer.set_request_id(answer_.request_id());
      End(std::move(answer));
    });
  }
  void Abandon() override {
    Later([this] { generation_->Cancel(); });
  }

  // Tells `stream` what there is by now; what follows finds it.
  void CatchUp(ResumableStream* stream) const {
    if (Choices() > 1) return stream->Extend(0, {}, SeveralAnswers(Choices()));
    const uint32_t first = stream->events();
    stream->Extend(first, EventsOf(answer_, first), std::nullopt);
  }

 private:
  uint32_t Choices() const { return ChoicesOf(request_); }

  void Later(std::function<void()> work) {
    backend_->Later([self = shared_from_this(), work = std::move(work)] { work(); });
  }

  // The end comes from the store.
  void Tell(const v1::GenerateResponse& message) {
    if (message.has_started()) backend_->answering_[id_] = this;
    if (!message.has_started() && !message.has_tokens()) return;
    const std::shared_ptr<ResumableStream> stream = backend_->watches_.Find(id_);
    if (stream == nullptr) return;
    if (Choices() > 1) return stream->Extend(0, {}, SeveralAnswers(Choices()));
    const int number = message.has_started() ? 0 : answer_.choices(0).token_ids_size();
    v1::JournalEvents events;
    *events.add_events() = ForWatcher(message);
    stream->Extend(static_cast<uint32_t>(number), std::move(events), std::nullopt);
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
  std::shared_ptr<Call> self_;
};

JobBackend::JobBackend(Frontend* frontend, JobStore* store, std::function<int64_t()> now_seconds)
    : frontend_(frontend),
      now_seconds_(std::move(now_seconds)),
      watches_(store, frontend->clock()),
      pool_(/*threads=*/1, std::numeric_limits<size_t>::max()) {}

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
                                                                   const ItemId& id) {
  bool made = false;
  ASSIGN_OR_RETURN(const std::shared_ptr<ResumableStream> stream, watches_.Open(tenant, id, &made));
  if (!made || stream->over()) return stream;
  Later([this, id, watched = std::weak_ptr<ResumableStream>(stream)] {
    const auto it = answering_.find(id);
    if (it == answering_.end()) return;
    if (const auto stream = watched.lock()) it->second->CatchUp(stream.get());
  });
  return stream;
}

}  // namespace whalepod
