#include "coordinator/api/job_backend.h"

#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "coordinator/api/batch_format.h"
#include "coordinator/api/generation.h"
#include "coordinator/api/limits.h"
#include "coordinator/api/openai_response.h"
#include "coordinator/usage/sums.h"

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
  Call(JobBackend* backend, const OpenAiRequest& request, Done done)
      : backend_(backend),
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

  bool Write(const v1::GenerateResponse& message, bool last) override {
    Later([this, &message, last] {
      Gather(message);
      if (!last) return generation_->OnWritten(true);
      answer_.set_body(response_.Whole());
      End(std::move(answer_));
    });
    return false;
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

 private:
  uint32_t Choices() const { return ChoicesOf(request_); }

  void Later(std::function<void()> work) {
    const bool taken =
        backend_->pool_.Run([self = shared_from_this(), work = std::move(work)] { work(); });
    CHECK(taken);
  }

  void Gather(const v1::GenerateResponse& message) {
    response_.Gather(message);
    if (message.has_started()) answer_.set_request_id(message.started().request_id());
    if (message.has_tokens()) {
      v1::JobAnswer::Choice* choice =
          answer_.mutable_choices(static_cast<int>(message.tokens().choice()));
      for (const v1::GeneratedToken& token : message.tokens().tokens()) {
        choice->add_token_ids(token.token_id());
      }
      for (const v1::TextSpan& span : message.tokens().spans()) {
        (span.kind() == v1::SPAN_KIND_REASONING ? choice->mutable_reasoning()
                                                : choice->mutable_text())
            ->append(span.text());
      }
    }
    if (!message.has_finished()) return;
    const v1::GenerateResponse::Finished& finished = message.finished();
    answer_.mutable_choices(static_cast<int>(finished.choice()))
        ->set_finish_reason(finished.reason());
    AddChoice(finished.usage(), finished.choice(), answer_.mutable_usage());
  }

  void End(absl::StatusOr<v1::JobAnswer> answer) {
    const std::shared_ptr<Call> self = std::move(self_);
    done_(std::move(answer));
  }

  JobBackend* const backend_;
  const Done done_;
  const v1::GenerateRequest request_;
  OpenAiResponse response_;
  v1::JobAnswer answer_;
  const std::shared_ptr<Generation> generation_;
  std::shared_ptr<Call> self_;
};

JobBackend::JobBackend(Frontend* frontend, std::function<int64_t()> now_seconds)
    : frontend_(frontend),
      now_seconds_(std::move(now_seconds)),
      pool_(/*threads=*/1, std::numeric_limits<size_t>::max()) {}

std::shared_ptr<ItemCall> JobBackend::Start(const PendingItem& item, Done done) {
  absl::StatusOr<OpenAiRequest> request = ParseItem(item.kind, item.request);
  if (!request.ok()) {
    done(AnswerOfError(request.status()));
    return nullptr;
  }
  v1::GenerateRequest& generate = request->generate;
  if (generate.priority() == 0) generate.set_priority(item.priority);
  if (!generate.options().has_seed()) generate.mutable_options()->set_seed(SeedOf(item));
  const auto call = std::make_shared<Call>(this, *request, std::move(done));
  call->Begin(item.tenant);
  return call;
}

}  // namespace whalepod
