#include "coordinator/api/sampling_options.h"

#include <algorithm>
#include <cmath>
#include <optional>
#include <random>
#include <string>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "coordinator/api/errors.h"
#include "coordinator/api/limits.h"

namespace whalepod {
namespace {

// Colder than this the noise cannot change a choice, but logits divided by it may overflow.
constexpr float kGreedyBelow = 1e-5f;

uint64_t DrawSeed() {
  std::random_device device;
  return (static_cast<uint64_t>(device()) << 32) | device();
}

absl::Status OutOfRange(const char* option, const std::string& value, const std::string& limit) {
  return BadField(absl::StrCat("options.", option), "OUT_OF_RANGE", value, limit);
}

struct Interval {
  float least;
  float most;
  bool above_least = false;  // `least` itself is excluded
};

absl::Status CheckReal(const char* option, float value, Interval in) {
  if (value >= in.least && value <= in.most && !(in.above_least && value == in.least)) {
    return absl::OkStatus();
  }
  return OutOfRange(
      option, absl::StrCat(value),
      absl::StrCat("a number in ", in.above_least ? "(" : "[", in.least, ", ", in.most, "]"));
}

// Temperature and what cuts the tail off.
absl::Status FillCuts(const GenerationDefaults& defaults, const v1::GenerationOptions& options,
                      v1::SamplingParams* sampling) {
  const float temperature =
      options.has_temperature() ? options.temperature() : defaults.temperature;
  RETURN_IF_ERROR(CheckReal("temperature", temperature, {0, 2}));
  const float top_p = options.has_top_p() ? options.top_p() : defaults.top_p;
  RETURN_IF_ERROR(CheckReal("top_p", top_p, {0, 1, /*above_least=*/true}));
  const float min_p = options.has_min_p() ? options.min_p() : defaults.min_p;
  RETURN_IF_ERROR(CheckReal("min_p", min_p, {0, 1}));
  sampling->set_temperature(temperature < kGreedyBelow ? 0.0f : temperature);
  sampling->set_top_k(options.has_top_k() ? options.top_k()
                                          : static_cast<uint32_t>(defaults.top_k));
  sampling->set_top_p(top_p < 1 ? top_p : 0.0f);
  sampling->set_min_p(min_p);
  return absl::OkStatus();
}

absl::Status FillPenalties(const ServedModel& model, const v1::GenerationOptions& options,
                           v1::SamplingParams* sampling) {
  const float repetition = options.has_repetition_penalty() ? options.repetition_penalty()
                                                            : model.defaults.repetition_penalty;
  RETURN_IF_ERROR(CheckReal("repetition_penalty", repetition, {0.01f, 100}));
  RETURN_IF_ERROR(CheckReal("presence_penalty", options.presence_penalty(), {-2, 2}));
  RETURN_IF_ERROR(CheckReal("frequency_penalty", options.frequency_penalty(), {-2, 2}));
  sampling->set_repetition_penalty(repetition == 1 ? 0.0f : repetition);
  sampling->set_presence_penalty(options.presence_penalty());
  sampling->set_frequency_penalty(options.frequency_penalty());
  if (options.logit_bias_size() > kMostBiases) {
    return BadField("options.logit_bias", "TOO_MANY", absl::StrCat(options.logit_bias_size()),
                    absl::StrCat("at most ", kMostBiases));
  }
  for (const auto& [id, bias] : options.logit_bias()) {
    if (id >= model.vocab_size) {
      return OutOfRange("logit_bias", absl::StrCat("token ", id),
                        absl::StrCat("less than ", model.vocab_size));
    }
    RETURN_IF_ERROR(CheckReal("logit_bias", bias, {-100, 100}));
    v1::LogitBias* entry = sampling->add_logit_bias();
    entry->set_token_id(id);
    entry->set_bias(bias);
  }
  // A map has no order, and ranks are sent one.
  std::sort(sampling->mutable_logit_bias()->begin(), sampling->mutable_logit_bias()->end(),
            [](const auto& a, const auto& b) { return a.token_id() < b.token_id(); });
  return absl::OkStatus();
}

// How long the answer may be, and what ends it.
absl::Status FillEnds(const ServedModel& model, const v1::GenerationOptions& options,
                      uint64_t prompt_len, v1::SamplingParams* sampling) {
  const uint64_t most = std::min<uint64_t>(model.max_model_len, model.kv_tokens);
  const uint64_t room = most - prompt_len;
  const uint64_t usual = model.defaults.max_new_tokens > 0
                             ? std::min<uint64_t>(room, model.defaults.max_new_tokens)
                             : room;
  const uint64_t max_tokens = options.has_max_tokens() ? options.max_tokens() : usual;
  if (max_tokens == 0 || max_tokens > room) {
    return OutOfRange(
        "max_tokens", absl::StrCat(max_tokens),
        absl::StrCat("in [1, ", room, "]: the prompt has ", prompt_len, " tokens of ", most));
  }
  if (options.min_tokens() > max_tokens) {
    return OutOfRange("min_tokens", absl::StrCat(options.min_tokens()),
                      absl::StrCat("at most max_tokens = ", max_tokens));
  }
  if (options.stop_token_ids_size() > kMostStopTokens) {
    return BadField("options.stop_token_ids", "TOO_MANY",
                    absl::StrCat(options.stop_token_ids_size(), " ids"),
                    absl::StrCat("at most ", kMostStopTokens));
  }
  RETURN_IF_ERROR(CheckTokenIds(model, "options.stop_token_ids", options.stop_token_ids()));
  sampling->set_max_tokens(static_cast<uint32_t>(max_tokens));
  sampling->set_ignore_eos(options.ignore_eos());
  *sampling->mutable_stop_token_ids() = options.stop_token_ids();
  if (options.min_tokens() == 0) return absl::OkStatus();
  sampling->set_min_tokens(options.min_tokens());
  *sampling->mutable_banned_token_ids() = options.stop_token_ids();
  if (!options.ignore_eos()) {
    for (const uint32_t id : model.eos_token_ids) sampling->add_banned_token_ids(id);
  }
  return absl::OkStatus();
}

absl::Status FillLogprobs(const v1::GenerationOptions& options, v1::SamplingParams* sampling) {
  const std::string limit = absl::StrCat("at most ", kMostLogprobs);
  if (options.logprobs() > kMostLogprobs) {
    return OutOfRange("logprobs", absl::StrCat(options.logprobs()), limit);
  }
  if (options.prompt_logprobs() > kMostLogprobs) {
    return OutOfRange("prompt_logprobs", absl::StrCat(options.prompt_logprobs()), limit);
  }
  sampling->set_logprobs(options.has_logprobs() ? static_cast<int32_t>(options.logprobs()) : -1);
  if (options.has_prompt_logprobs()) sampling->set_prompt_logprobs(options.prompt_logprobs());
  return absl::OkStatus();
}

}  // namespace

absl::Status FillSampling(const ServedModel& model, const v1::GenerationOptions& options,
                          uint64_t prompt_len, v1::SamplingParams* sampling) {
  RETURN_IF_ERROR(FillCuts(model.defaults, options, sampling));
  RETURN_IF_ERROR(FillPenalties(model, options, sampling));
  RETURN_IF_ERROR(FillEnds(model, options, prompt_len, sampling));
  RETURN_IF_ERROR(FillLogprobs(options, sampling));
  sampling->set_seed(options.has_seed() ? options.seed() : DrawSeed());
  return absl::OkStatus();
}

void PinSampling(const v1::SamplingParams& sampling, v1::GenerationOptions* options) {
  // Off is 0 in what ranks are sent, and 1 for clients.
  const auto or_one = [](float value) { return value == 0 ? 1.0f : value; };
  options->set_temperature(sampling.temperature());
  options->set_top_k(sampling.top_k());
  options->set_top_p(or_one(sampling.top_p()));
  options->set_min_p(sampling.min_p());
  options->set_repetition_penalty(or_one(sampling.repetition_penalty()));
  options->set_max_tokens(sampling.max_tokens());
  options->set_seed(sampling.seed());
}

absl::Status FillThinking(const ServedModel& model, const v1::GenerationOptions& options,
                          ReasoningStart reasoning, v1::SamplingParams* sampling) {
  if (!options.has_thinking_token_budget()) return absl::OkStatus();
  const std::optional<ReasoningTags> tags =
      model.text.tokenizer == nullptr ? std::nullopt : ReasoningTagsOf(*model.text.tokenizer);
  if (!tags) {
    return WithField(
        absl::FailedPreconditionError(
            "options.thinking_token_budget needs a tokenizer with the tokens <think> and </think>"),
        "options.thinking_token_budget", "NO_REASONING_TAGS");
  }
  sampling->set_thinking_budget(options.thinking_token_budget());
  sampling->set_think_begin(tags->open);
  sampling->set_think_end(tags->close);
  sampling->set_think_open(reasoning == ReasoningStart::kOpen);
  return absl::OkStatus();
}

absl::StatusOr<uint32_t> CheckChoices(const v1::GenerationOptions& options,
                                      const v1::SamplingParams& sampling) {
  const uint32_t n = options.has_n() ? options.n() : 1;
  if (n == 0 || n > kMostChoices) {
    return OutOfRange("n", absl::StrCat(n), absl::StrCat("in [1, ", kMostChoices, "]"));
  }
  if (n > 1 && sampling.temperature() == 0) {
    return BadField("options.n", "CONTRADICTION", absl::StrCat(n),
                    "1 at temperature 0: greedy answers are all the same");
  }
  return n;
}

}  // namespace whalepod
