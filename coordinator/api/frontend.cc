#include "coordinator/api/frontend.h"

#include <algorithm>
#include <random>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "coordinator/api/errors.h"
#include "coordinator/api/prompt.h"

namespace whalepod {
namespace {

constexpr size_t kTextQueue = 64;

int TextThreads() {
  return std::clamp(static_cast<int>(std::thread::hardware_concurrency()) / 2, 1, 4);
}

}  // namespace

Frontend::Frontend(ServedModel model, StatusFn status, ServingMetrics* metrics, UsageStore* usage,
                   ApiKeys keys, const Clock* clock)
    : status_(std::move(status)),
      metrics_(metrics),
      usage_(usage),
      keys_(std::move(keys)),
      clock_(clock),
      serving_{.model = std::make_shared<const ServedModel>(std::move(model)),
               .not_ready = absl::UnavailableError("the deployment is starting")},
      id_prefix_(std::random_device()()),
      text_work_(TextThreads(), kTextQueue) {}

void Frontend::SetReady(ServedModel model, Engine* engine) {
  std::lock_guard lock(mu_);
  serving_ = {std::make_shared<const ServedModel>(std::move(model)), engine, absl::OkStatus()};
}

void Frontend::SetNotReady(const absl::Status& why) {
  std::lock_guard lock(mu_);
  serving_.not_ready = why;
}

Frontend::Serving Frontend::Now() const {
  std::lock_guard lock(mu_);
  return serving_;
}

bool Frontend::ready() const { return Now().not_ready.ok(); }

std::shared_ptr<const ServedModel> Frontend::model() const { return Now().model; }

std::string Frontend::MetricsText() const {
  std::lock_guard lock(scrape_mu_);
  const Serving serving = Now();
  if (serving.engine != nullptr) metrics_->SetScheduler(serving.engine->Stats());
  v1::GetStatusResponse status;
  status_(&status);
  metrics_->SetDeployment(status);
  return metrics_->Text();
}

absl::Status Frontend::NotReady(const absl::Status& why) const {
  v1::GetStatusResponse status;
  status_(&status);
  std::string text(why.message());
  if (status.state() == "starting" && !status.message().empty()) {
    absl::StrAppend(&text, ": ", status.message());
  }
  return WithRetryDelay(absl::Status(why.code(), text), "NOT_READY", kRetryMs);
}

absl::Status Frontend::RunTextWork(std::function<void()> work) {
  if (text_work_.Run(std::move(work))) return absl::OkStatus();
  return WithRetryDelay(absl::ResourceExhaustedError(absl::StrCat(
                            "more than ", kTextQueue, " texts wait to be encoded or decoded")),
                        "QUEUE_FULL", kRetryMs);
}

void Frontend::Generate(std::vector<Call> calls, std::string caller) {
  const TimePoint arrival = clock_->Now();
  const bool encoded = std::all_of(calls.begin(), calls.end(),
                                   [](const Call& call) { return call.request->has_token_ids(); });
  const auto begin = [this, calls, caller = std::move(caller), arrival] {
    for (const Call& call : calls) Begin(call.generation.get(), *call.request, caller, arrival);
  };
  if (encoded) return begin();
  const absl::Status queued = RunTextWork(begin);
  if (queued.ok()) return;
  for (const Call& call : calls) call.generation->Refuse(queued, call.request->request_id());
}

void Frontend::Begin(Generation* generation, const v1::GenerateRequest& request,
                     const std::string& caller, TimePoint arrival) {
  absl::StatusOr<Admitted> admitted = Admit(request, caller, arrival);
  if (!admitted.ok()) return generation->Refuse(admitted.status(), request.request_id());
  std::string id = request.request_id();
  if (id.empty()) {
    id = absl::StrCat("gen-", absl::Hex(id_prefix_, absl::kZeroPad8), "-", ++next_id_);
  }
  generation->Begin(admitted->engine, std::move(admitted->checked), std::move(id),
                    *admitted->model);
}

absl::StatusOr<Frontend::Admitted> Frontend::Admit(const v1::GenerateRequest& request,
                                                   const std::string& caller,
                                                   TimePoint arrival) const {
  const Serving serving = Now();
  // What is wrong with the request itself can be told only once the limits are known.
  if (!serving.not_ready.ok()) return NotReady(serving.not_ready);
  ASSIGN_OR_RETURN(CheckedGenerate checked, ValidateGenerate(*serving.model, request, arrival));
  checked.request.tenant = caller;
  return Admitted{serving.engine, serving.model, std::move(checked)};
}

absl::Status Frontend::Check(const v1::GenerateRequest& request) const {
  const Serving serving = Now();
  if (!serving.not_ready.ok()) return absl::OkStatus();
  return ValidateGenerate(*serving.model, request, clock_->Now()).status();
}

absl::Status Frontend::Tokenize(const v1::TokenizeRequest& request,
                                v1::TokenizeResponse* response) const {
  const std::shared_ptr<const ServedModel> served = this->model();
  const ServedModel& model = *served;
  RETURN_IF_ERROR(CheckModelName(model, request.model()));
  if (request.prompt_case() == v1::TokenizeRequest::PROMPT_NOT_SET) {
    return BadField("prompt", "MISSING", "not set", "text or chat");
  }
  ASSIGN_OR_RETURN(const Prompt prompt, request.has_chat()
                                            ? EncodeChat(model.text, request.chat())
                                            : EncodeText(model.text, request.text(), AddBos::kNo));
  response->mutable_token_ids()->mutable_ids()->Assign(prompt.ids.begin(), prompt.ids.end());
  response->set_text(prompt.text);
  response->set_max_model_len(model.max_model_len);
  return absl::OkStatus();
}

absl::Status Frontend::Detokenize(const v1::DetokenizeRequest& request,
                                  v1::DetokenizeResponse* response) const {
  const std::shared_ptr<const ServedModel> served = this->model();
  const ServedModel& model = *served;
  RETURN_IF_ERROR(CheckModelName(model, request.model()));
  if (model.text.tokenizer == nullptr) {
    return absl::FailedPreconditionError(model.text.no_tokenizer);
  }
  const auto& ids = request.token_ids().ids();
  if (static_cast<uint64_t>(ids.size()) > model.max_model_len) {
    return BadField("token_ids", "TOO_LONG", absl::StrCat(ids.size(), " tokens"),
                    absl::StrCat("at most ", model.max_model_len));
  }
  RETURN_IF_ERROR(CheckTokenIds(model, "token_ids", ids));
  response->set_text(model.text.tokenizer->Decode(ids, SpecialTokens::kKeep));
  return absl::OkStatus();
}

}  // namespace whalepod
