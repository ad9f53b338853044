#include "coordinator/api/validate.h"

#include <algorithm>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "coordinator/api/errors.h"
#include "coordinator/api/limits.h"
#include "coordinator/api/sampling_options.h"
#include "proto/plan/hash.h"

namespace whalepod {
namespace {

constexpr int32_t kFarthestPriority = 1000;

// A sequence needs room for its prompt and one token more.
absl::Status CheckPrompt(const ServedModel& model, const std::string& field,
                         const std::vector<uint32_t>& ids) {
  if (ids.empty()) return BadField(field, "EMPTY", "empty", "at least 1 token");
  const std::string count = absl::StrCat(ids.size(), " tokens");
  if (ids.size() >= model.max_model_len) {
    return BadField(field, "TOO_LONG", count,
                    absl::StrCat("at most ", model.max_model_len - 1, " tokens: the context is ",
                                 model.max_model_len, ", output included"));
  }
  if (ids.size() >= model.kv_tokens) {
    return BadField(field, "TOO_LONG", count,
                    absl::StrCat("at most ", model.kv_tokens - 1, " tokens: the KV cache holds ",
                                 model.kv_tokens, ", output included"));
  }
  return CheckTokenIds(model, field, ids);
}

absl::Status CheckStop(const ServedModel& model, const v1::GenerationOptions& options) {
  if (options.stop().empty()) return absl::OkStatus();
  if (model.text.tokenizer == nullptr) {
    return WithField(absl::FailedPreconditionError(
                         absl::StrCat("options.stop needs a tokenizer: ", model.text.no_tokenizer)),
                     "options.stop", "NO_TOKENIZER");
  }
  if (options.stop_size() > kMostStops) {
    return BadField("options.stop", "TOO_MANY", absl::StrCat(options.stop_size(), " texts"),
                    absl::StrCat("at most ", kMostStops));
  }
  for (int i = 0; i < options.stop_size(); ++i) {
    const size_t bytes = options.stop(i).size();
    if (bytes == 0 || bytes > kLongestStop) {
      return BadField(absl::StrCat("options.stop[", i, "]"), "OUT_OF_RANGE",
                      absl::StrCat(bytes, " bytes"), absl::StrCat("1 to ", kLongestStop, " bytes"));
    }
  }
  return absl::OkStatus();
}

void SetDeadlines(const v1::Timeouts& timeouts, TimePoint arrival, SchedulerRequest* request) {
  const auto after = [arrival](uint32_t ms) {
    return ms == 0 ? kNoDeadline : arrival + std::chrono::milliseconds(ms);
  };
  request->arrival = arrival;
  request->queue_deadline = after(timeouts.queue_ms());
  request->first_token_deadline = after(timeouts.first_token_ms());
  request->deadline = after(timeouts.total_ms());
}

}  // namespace

std::string FingerprintOf(const ServedModel& model, const SchedulerRequest& request) {
  constexpr size_t kDigits = 16;
  v1::SamplingParams sampling = request.sampling;
  // These change no token; how long an answer may be depends on the deployment's memory.
  sampling.clear_max_tokens();
  sampling.clear_logprobs();
  sampling.clear_prompt_logprobs();
  const absl::string_view prompt(reinterpret_cast<const char*>(request.prompt.data()),
                                 request.prompt.size() * sizeof(uint32_t));
  return HexOf(Sha256(absl::StrCat(model.identity, Deterministic(sampling), prompt)))
      .substr(0, kDigits);
}

absl::Status CheckTokenIds(const ServedModel& model, const std::string& field,
                           absl::Span<const uint32_t> ids) {
  for (size_t i = 0; i < ids.size(); ++i) {
    if (ids[i] >= model.vocab_size) {
      return BadField(absl::StrCat(field, "[", i, "]"), "OUT_OF_RANGE", absl::StrCat(ids[i]),
                      absl::StrCat("less than ", model.vocab_size));
    }
  }
  return absl::OkStatus();
}

absl::Status CheckModelName(const ServedModel& model, const std::string& name) {
  if (name.empty() || name == model.name) return absl::OkStatus();
  v1::ErrorDetail detail;
  detail.set_field("model");
  detail.set_reason("UNKNOWN_MODEL");
  detail.set_value(absl::Utf8SafeCEscape(name.substr(0, 100)));
  detail.set_limit(model.name);
  return WithDetail(
      absl::NotFoundError(absl::StrCat("model \"", detail.value(), "\" is not served here, \"",
                                       model.name, "\" is")),
      detail);
}

absl::Status CheckPriority(int32_t priority) {
  if (priority >= -kFarthestPriority && priority <= kFarthestPriority) return absl::OkStatus();
  return BadField("priority", "OUT_OF_RANGE", absl::StrCat(priority),
                  absl::StrCat("in [-", kFarthestPriority, ", ", kFarthestPriority, "]"));
}

absl::StatusOr<CheckedGenerate> ValidateGenerate(const ServedModel& model,
                                                 const v1::GenerateRequest& request,
                                                 TimePoint arrival) {
  RETURN_IF_ERROR(CheckModelName(model, request.model()));
  const std::string& id = request.request_id();
  if (id.size() > kMostRequestId || !std::all_of(id.begin(), id.end(), absl::ascii_isgraph)) {
    return BadField("request_id", "MALFORMED", id,
                    absl::StrCat("at most ", kMostRequestId, " visible ASCII characters"));
  }
  ASSIGN_OR_RETURN(Prompt prompt, ReadPrompt(model.text, request));
  RETURN_IF_ERROR(CheckPrompt(model, prompt.field, prompt.ids));
  CheckedGenerate out;
  RETURN_IF_ERROR(FillSampling(model, request.options(), prompt.ids.size(), &out.request.sampling));
  ASSIGN_OR_RETURN(out.n, CheckChoices(request.options(), out.request.sampling));
  RETURN_IF_ERROR(FillThinking(model, request.options(), prompt.reasoning, &out.request.sampling));
  RETURN_IF_ERROR(CheckPriority(request.priority()));
  out.request.priority = request.priority();
  SetDeadlines(request.timeouts(), arrival, &out.request);
  out.request.prompt = std::move(prompt.ids);
  out.reasoning = prompt.reasoning;
  RETURN_IF_ERROR(CheckStop(model, request.options()));
  out.stop.assign(request.options().stop().begin(), request.options().stop().end());
  return out;
}

}  // namespace whalepod
