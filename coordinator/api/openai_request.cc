#include "coordinator/api/openai_request.h"

#include <cmath>
#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "coordinator/api/errors.h"
#include "coordinator/api/limits.h"
#include "coordinator/checkpoint/json.h"

namespace whalepod {
namespace {

using Json = nlohmann::json;

constexpr int64_t kDefaultCompletionTokens = 16;

// The keys of a body, read one after another; the first error stays.
class Fields {
 public:
  explicit Fields(const Json& object) : object_(object) {}

  // Null if absent.
  const Json* Find(const char* key) const {
    const auto it = object_.find(key);
    return it == object_.end() || it->is_null() ? nullptr : &*it;
  }
  std::optional<double> Real(const char* key) {
    const Json* value = Find(key);
    if (value == nullptr) return std::nullopt;
    if (value->is_number()) return value->get<double>();
    Wrong(key, *value, "a number");
    return std::nullopt;
  }
  std::optional<int64_t> Int(const char* key, int64_t least = 0, int64_t most = UINT32_MAX) {
    const Json* value = Find(key);
    if (value == nullptr) return std::nullopt;
    // 4.0 is an integer to many clients.
    const double number = value->is_number() ? value->get<double>() : NAN;
    if (value->is_number_integer() && !(number < static_cast<double>(least)) &&
        !(number > static_cast<double>(most))) {
      return value->get<int64_t>();
    }
    if (value->is_number_float() && number == std::floor(number) &&
        number >= static_cast<double>(least) && number <= static_cast<double>(most)) {
      return static_cast<int64_t>(number);
    }
    Wrong(key, *value, absl::StrCat("an integer from ", least, " to ", most));
    return std::nullopt;
  }
  std::optional<uint32_t> Uint(const char* key) {
    const std::optional<int64_t> value = Int(key);
    return value ? std::optional<uint32_t>(static_cast<uint32_t>(*value)) : std::nullopt;
  }
  std::optional<float> Float(const char* key) {
    const std::optional<double> value = Real(key);
    return value ? std::optional<float>(static_cast<float>(*value)) : std::nullopt;
  }
  bool Bool(const char* key, bool missing = false) {
    const Json* value = Find(key);
    if (value == nullptr) return missing;
    if (value->is_boolean()) return value->get<bool>();
    Wrong(key, *value, "true or false");
    return missing;
  }
  std::string String(const char* key) {
    const Json* value = Find(key);
    if (value == nullptr) return "";
    if (value->is_string()) return value->get<std::string>();
    Wrong(key, *value, "a string");
    return "";
  }

  void Wrong(const std::string& key, const Json& found, const std::string& wanted) {
    Fail(BadField(key, "WRONG_TYPE", found.dump(-1, ' ', true, Json::error_handler_t::replace),
                  wanted));
  }
  void NotBuilt(const std::string& key) {
    Fail(WithField(absl::InvalidArgumentError(absl::StrCat(key, " is not supported here")), key,
                   "NOT_SUPPORTED"));
  }
  void Fail(absl::Status status) {
    if (status_.ok()) status_ = std::move(status);
  }
  const absl::Status& status() const { return status_; }

 private:
  const Json& object_;
  absl::Status status_;
};

// A string, or a list of strings or of {"type": "text", "text": ...}, joined.
std::optional<std::string> TextOf(const Json& content) {
  if (content.is_string()) return content.get<std::string>();
  if (!content.is_array()) return std::nullopt;
  std::string text;
  for (const Json& part : content) {
    if (!part.is_object() || part.value("type", Json()) != "text") return std::nullopt;
    const auto it = part.find("text");
    if (it == part.end() || !it->is_string()) return std::nullopt;
    text += it->get<std::string>();
  }
  return text;
}

void ReadToolCalls(const Json& calls, const std::string& where, Fields& fields,
                   v1::ChatMessage* message) {
  if (!calls.is_array()) return fields.Wrong(where, calls, "a list");
  for (const Json& call : calls) {
    const Json* function =
        call.is_object() && call.contains("function") ? &call["function"] : nullptr;
    if (function == nullptr || !function->is_object() ||
        !function->value("name", Json()).is_string() ||
        !function->value("arguments", Json()).is_string()) {
      return fields.Wrong(where, call, "a function call");
    }
    v1::ToolCall* made = message->add_tool_calls();
    made->set_type("function");
    made->set_name((*function)["name"].get<std::string>());
    made->set_arguments((*function)["arguments"].get<std::string>());
  }
}

void ReadMessages(Fields& fields, v1::Chat* chat) {
  const Json* messages = fields.Find("messages");
  if (messages == nullptr || !messages->is_array()) {
    return fields.Wrong("messages", messages == nullptr ? Json() : *messages, "a list of messages");
  }
  for (size_t i = 0; i < messages->size(); ++i) {
    const Json& entry = (*messages)[i];
    const std::string where = absl::StrCat("messages[", i, "]");
    if (!entry.is_object() || !entry.value("role", Json()).is_string()) {
      return fields.Wrong(where, entry, "an object with a role");
    }
    v1::ChatMessage* message = chat->add_messages();
    const std::string role = entry["role"].get<std::string>();
    // OpenAI's newer name of the system prompt.
    message->set_role(role == "developer" ? "system" : role);
    const auto content = entry.find("content");
    if (content != entry.end() && !content->is_null()) {
      const std::optional<std::string> text = TextOf(*content);
      if (!text) return fields.Wrong(where + ".content", *content, "text, or parts of type text");
      message->set_content(*text);
    }
    const auto calls = entry.find("tool_calls");
    if (calls != entry.end() && !calls->is_null()) {
      ReadToolCalls(*calls, where + ".tool_calls", fields, message);
    }
  }
}

// Refuses a list before it is taken over: a completion's prompts each have a copy of the options.
bool TooMany(const char* key, const Json& list, size_t most, Fields& fields) {
  if (list.size() <= most) return false;
  fields.Fail(BadField(key, "TOO_LONG", absl::StrCat(list.size(), " entries"),
                       absl::StrCat("at most ", most)));
  return true;
}

void ReadTokenIds(const std::string& key, const Json& ids, Fields& fields, v1::TokenIds* to) {
  for (const Json& id : ids) {
    if (!id.is_number_unsigned() || id.get<uint64_t>() > UINT32_MAX) {
      return fields.Wrong(key, id, "token ids");
    }
    to->add_ids(static_cast<uint32_t>(id.get<uint64_t>()));
  }
}

// A text, or token ids.
void ReadOnePrompt(const Json& prompt, Fields& fields, v1::GenerateRequest* request) {
  if (prompt.is_string()) return request->set_text(prompt.get<std::string>());
  if (!prompt.is_array() || prompt.empty()) {
    return fields.Wrong("prompt", prompt, "a text or token ids, or a list of them");
  }
  ReadTokenIds("prompt", prompt, fields, request->mutable_token_ids());
}

// One prompt or a list of them; all else of `request` has been read.
void ReadPrompts(Fields& fields, OpenAiRequest* request) {
  const Json* prompt = fields.Find("prompt");
  if (prompt == nullptr) return fields.Wrong("prompt", Json(), "a text or token ids");
  if (!prompt->is_array() || prompt->empty() || (*prompt)[0].is_number()) {
    return ReadOnePrompt(*prompt, fields, &request->generate);
  }
  if (TooMany("prompt", *prompt, kMostPrompts, fields)) return;
  request->more.assign(prompt->size() - 1, request->generate);
  for (size_t i = 0; i < prompt->size(); ++i) {
    ReadOnePrompt((*prompt)[i], fields, i == 0 ? &request->generate : &request->more[i - 1]);
  }
}

void ReadStops(Fields& fields, v1::GenerationOptions* options) {
  const Json* stop = fields.Find("stop");
  if (stop != nullptr && stop->is_string()) {
    options->add_stop(stop->get<std::string>());
  } else if (stop != nullptr) {
    if (!stop->is_array()) return fields.Wrong("stop", *stop, "a text or a list of texts");
    if (TooMany("stop", *stop, kMostStops, fields)) return;
    for (const Json& text : *stop) {
      if (!text.is_string()) return fields.Wrong("stop", text, "a text or a list of texts");
      options->add_stop(text.get<std::string>());
    }
  }
  const Json* ids = fields.Find("stop_token_ids");
  if (ids == nullptr) return;
  if (!ids->is_array()) return fields.Wrong("stop_token_ids", *ids, "a list of token ids");
  if (TooMany("stop_token_ids", *ids, kMostStopTokens, fields)) return;
  v1::TokenIds read;
  ReadTokenIds("stop_token_ids", *ids, fields, &read);
  *options->mutable_stop_token_ids() = read.ids();
}

void ReadBias(Fields& fields, v1::GenerationOptions* options) {
  const Json* bias = fields.Find("logit_bias");
  if (bias == nullptr) return;
  if (!bias->is_object()) return fields.Wrong("logit_bias", *bias, "a map of token ids to numbers");
  if (TooMany("logit_bias", *bias, kMostBiases, fields)) return;
  for (const auto& [key, value] : bias->items()) {
    uint32_t id = 0;
    if (!absl::SimpleAtoi(key, &id) || !value.is_number()) {
      return fields.Wrong("logit_bias", Json{{key, value}}, "a map of token ids to numbers");
    }
    (*options->mutable_logit_bias())[id] = value.get<float>();
  }
}

// Known fields that would change the answer, and are not built.
void RefuseWhatIsNotBuilt(Fields& fields) {
  for (const char* key :
       {"tools", "functions", "tool_choice", "function_call", "guided_json", "guided_regex",
        "guided_choice", "guided_grammar", "structured_outputs", "suffix", "prompt_logprobs",
        "continue_final_message", "use_beam_search"}) {
    const Json* value = fields.Find(key);
    if (value == nullptr || *value == false || *value == "none" || *value == "") continue;
    if (value->is_array() && value->empty()) continue;
    fields.NotBuilt(key);
  }
  const Json* format = fields.Find("response_format");
  if (format != nullptr && !(format->is_object() && format->value("type", Json()) == "text")) {
    fields.NotBuilt("response_format");
  }
  if (fields.Int("best_of", 0, 64).value_or(1) > 1) fields.NotBuilt("best_of");
}

void ReadSampling(Fields& fields, v1::GenerationOptions* options) {
  const auto set = [options](auto setter, const auto& value) {
    if (value) (options->*setter)(*value);
  };
  using Options = v1::GenerationOptions;
  set(&Options::set_temperature, fields.Float("temperature"));
  set(&Options::set_top_p, fields.Float("top_p"));
  set(&Options::set_min_p, fields.Float("min_p"));
  set(&Options::set_repetition_penalty, fields.Float("repetition_penalty"));
  set(&Options::set_presence_penalty, fields.Float("presence_penalty"));
  set(&Options::set_frequency_penalty, fields.Float("frequency_penalty"));
  set(&Options::set_min_tokens, fields.Uint("min_tokens"));
  set(&Options::set_n, fields.Uint("n"));
  if (const auto top_k = fields.Int("top_k", -1)) {
    options->set_top_k(static_cast<uint32_t>(std::max<int64_t>(0, *top_k)));
  }
  if (const auto seed = fields.Int("seed", INT64_MIN, INT64_MAX)) {
    options->set_seed(static_cast<uint64_t>(*seed));
  }
  if (fields.Bool("ignore_eos")) options->set_ignore_eos(true);
  ReadStops(fields, options);
  ReadBias(fields, options);
}

// The three timeouts are ours; the rest is vLLM's.
void ReadScheduling(Fields& fields, v1::GenerateRequest* request) {
  const auto priority = fields.Int("priority", INT32_MIN, INT32_MAX);
  request->set_priority(static_cast<int32_t>(priority.value_or(0)));
  if (const std::optional<uint32_t> budget = fields.Uint("thinking_token_budget")) {
    request->mutable_options()->set_thinking_token_budget(*budget);
  }
  const std::optional<uint32_t> queue = fields.Uint("queue_timeout_ms");
  const std::optional<uint32_t> first = fields.Uint("first_token_timeout_ms");
  const std::optional<uint32_t> total = fields.Uint("timeout_ms");
  if (queue) request->mutable_timeouts()->set_queue_ms(*queue);
  if (first) request->mutable_timeouts()->set_first_token_ms(*first);
  if (total) request->mutable_timeouts()->set_total_ms(*total);
}

void ReadStream(Fields& fields, OpenAiRequest* request) {
  request->stream = fields.Bool("stream");
  const Json* options = fields.Find("stream_options");
  if (options == nullptr) return;
  if (!options->is_object()) return fields.Wrong("stream_options", *options, "an object");
  if (!request->stream) {
    return fields.Fail(BadField("stream_options", "CONTRADICTION", "set", "absent without stream"));
  }
  Fields inner(*options);
  request->include_usage = inner.Bool("include_usage");
  request->continuous_usage = inner.Bool("continuous_usage_stats");
  if (!inner.status().ok()) fields.Fail(inner.status());
}

void ReadCommon(Fields& fields, OpenAiRequest* request) {
  request->generate.set_model(fields.String("model"));
  ReadSampling(fields, request->generate.mutable_options());
  ReadScheduling(fields, &request->generate);
  ReadStream(fields, request);
  RefuseWhatIsNotBuilt(fields);
}

void ReadChatCompletion(Fields& fields, OpenAiRequest* request) {
  v1::GenerationOptions* options = request->generate.mutable_options();
  ReadMessages(fields, request->generate.mutable_chat());
  ReadCommon(fields, request);
  const std::optional<uint32_t> newer = fields.Uint("max_completion_tokens");
  const std::optional<uint32_t> older = fields.Uint("max_tokens");
  if (newer || older) options->set_max_tokens(newer ? *newer : *older);
  request->logprobs = fields.Bool("logprobs");
  const std::optional<uint32_t> top = fields.Uint("top_logprobs");
  if (top.value_or(0) > 0 && !request->logprobs) {
    fields.Fail(BadField("top_logprobs", "CONTRADICTION", absl::StrCat(*top),
                         "absent or 0 without logprobs"));
  }
  if (request->logprobs) options->set_logprobs(top.value_or(0));
}

void ReadCompletion(Fields& fields, OpenAiRequest* request) {
  request->chat = false;
  ReadCommon(fields, request);
  v1::GenerationOptions* options = request->generate.mutable_options();
  options->set_max_tokens(
      static_cast<uint32_t>(fields.Int("max_tokens").value_or(kDefaultCompletionTokens)));
  if (const std::optional<uint32_t> top = fields.Uint("logprobs")) {
    request->logprobs = true;
    options->set_logprobs(*top);
  }
  request->echo = fields.Bool("echo");
  if (request->echo && request->logprobs) options->set_prompt_logprobs(options->logprobs());
  ReadPrompts(fields, request);
}

// A body read by `read`, which leaves what is wrong in the fields.
template <typename Request, typename Read>
absl::StatusOr<Request> Parse(absl::string_view body, const Read& read) {
  ASSIGN_OR_RETURN(const Json document, ParseJson(body, "body"));
  if (!document.is_object()) {
    return BadField("body", "WRONG_TYPE", document.type_name(), "a JSON object");
  }
  Fields fields(document);
  Request request;
  read(fields, &request);
  RETURN_IF_ERROR(fields.status());
  return request;
}

}  // namespace

absl::StatusOr<OpenAiRequest> ParseChatCompletion(absl::string_view body) {
  return Parse<OpenAiRequest>(body, ReadChatCompletion);
}

absl::StatusOr<OpenAiRequest> ParseCompletion(absl::string_view body) {
  return Parse<OpenAiRequest>(body, ReadCompletion);
}

absl::StatusOr<v1::TokenizeRequest> ParseTokenize(absl::string_view body) {
  return Parse<v1::TokenizeRequest>(body, [](Fields& fields, v1::TokenizeRequest* request) {
    request->set_model(fields.String("model"));
    if (fields.Find("messages") != nullptr) {
      ReadMessages(fields, request->mutable_chat());
    } else if (fields.Find("prompt") != nullptr) {
      request->set_text(fields.String("prompt"));
    }
  });
}

absl::StatusOr<v1::DetokenizeRequest> ParseDetokenize(absl::string_view body) {
  return Parse<v1::DetokenizeRequest>(body, [](Fields& fields, v1::DetokenizeRequest* request) {
    request->set_model(fields.String("model"));
    const Json* tokens = fields.Find("tokens");
    if (tokens == nullptr || !tokens->is_array()) {
      fields.Wrong("tokens", tokens == nullptr ? Json() : *tokens, "a list of token ids");
    } else {
      ReadTokenIds("tokens", *tokens, fields, request->mutable_token_ids());
    }
  });
}

}  // namespace whalepod
