#include "coordinator/api/validate.h"

#include <algorithm>
#include <cmath>
#include <random>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "coordinator/api/errors.h"

namespace whalepod {
namespace {

constexpr uint32_t kMostLogprobs = 20;
constexpr int kMostStopTokens = 64;
constexpr int kMostStops = 16;
constexpr size_t kLongestStop = 256;
constexpr size_t kMostRequestId = 128;
// Colder than this the noise cannot change a choice, but logits divided by it may overflow.
constexpr float kGreedyBelow = 1e-5f;

uint64_t DrawSeed() {
  std::random_device device;
  return (static_cast<uint64_t>(device()) << 32) | device();
}

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

absl::Status FillSampling(const ServedModel& model, const v1::GenerationOptions& options,
                          uint64_t prompt_len, v1::SamplingParams* sampling) {
  const float temperature =
      options.has_temperature() ? options.temperature() : model.default_temperature;
  if (!std::isfinite(temperature) || temperature < 0.0f || temperature > 2.0f) {
    return BadField("options.temperature", "OUT_OF_RANGE", absl::StrCat(temperature),
                    "a number in [0, 2]");
  }
  const uint64_t room = std::min<uint64_t>(model.max_model_len, model.kv_tokens) - prompt_len;
  const uint64_t max_tokens = options.has_max_tokens() ? options.max_tokens() : room;
  if (max_tokens == 0 || max_tokens > room) {
    return BadField("options.max_tokens", "OUT_OF_RANGE", absl::StrCat(max_tokens),
                    absl::StrCat("in [1, ", room, "]: the prompt has ", prompt_len, " tokens of ",
                                 std::min<uint64_t>(model.max_model_len, model.kv_tokens)));
  }
  if (options.logprobs() > kMostLogprobs) {
    return BadField("options.logprobs", "OUT_OF_RANGE", absl::StrCat(options.logprobs()),
                    absl::StrCat("at most ", kMostLogprobs));
  }
  if (options.stop_token_ids_size() > kMostStopTokens) {
    return BadField("options.stop_token_ids", "TOO_MANY",
                    absl::StrCat(options.stop_token_ids_size(), " ids"),
                    absl::StrCat("at most ", kMostStopTokens));
  }
  RETURN_IF_ERROR(CheckTokenIds(model, "options.stop_token_ids", options.stop_token_ids()));
  sampling->set_temperature(temperature < kGreedyBelow ? 0.0f : temperature);
  sampling->set_seed(options.has_seed() ? options.seed() : DrawSeed());
  sampling->set_logprobs(options.has_logprobs() ? static_cast<int32_t>(options.logprobs()) : -1);
  sampling->set_max_tokens(static_cast<uint32_t>(max_tokens));
  sampling->set_ignore_eos(options.ignore_eos());
  *sampling->mutable_stop_token_ids() = options.stop_token_ids();
  return absl::OkStatus();
}

}  // namespace

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

absl::StatusOr<CheckedGenerate> ValidateGenerate(const ServedModel& model,
                                                 const v1::GenerateRequest& request) {
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
  out.request.prompt = std::move(prompt.ids);
  out.reasoning = prompt.reasoning;
  RETURN_IF_ERROR(CheckStop(model, request.options()));
  out.stop.assign(request.options().stop().begin(), request.options().stop().end());
  return out;
}

}  // namespace whalepod
