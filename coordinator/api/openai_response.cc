#include "coordinator/api/openai_response.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "base/compact_json.h"
#include "coordinator/api/errors.h"
#include "coordinator/usage/sums.h"

namespace whalepod {
namespace {

using Json = nlohmann::ordered_json;

// JSON has no infinity.
Json Logprob(float logprob) { return std::isfinite(logprob) ? Json(logprob) : Json(-9999.0); }

const char* FinishOf(v1::FinishReason reason) {
  return reason == v1::FINISH_REASON_LENGTH ? "length" : "stop";
}

struct HttpCode {
  int status;
  const char* type;
};

HttpCode CodeOf(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kOutOfRange:
    case absl::StatusCode::kFailedPrecondition:
      return {400, "invalid_request_error"};
    case absl::StatusCode::kUnauthenticated:
      return {401, "invalid_request_error"};
    case absl::StatusCode::kNotFound:
      return {404, "invalid_request_error"};
    case absl::StatusCode::kAlreadyExists:
      return {409, "invalid_request_error"};
    case absl::StatusCode::kResourceExhausted:
      return {429, "rate_limit_error"};
    case absl::StatusCode::kUnavailable:
      return {503, "service_unavailable_error"};
    case absl::StatusCode::kDeadlineExceeded:
      return {504, "timeout_error"};
    case absl::StatusCode::kCancelled:
      return {499, "cancelled"};
    default:
      return {500, "server_error"};
  }
}

}  // namespace

HttpError ToHttpError(const absl::Status& status) {
  const HttpCode code = CodeOf(status);
  const std::optional<v1::ErrorDetail> detail = DetailOf(status);
  Json param;
  if (detail && !detail->field().empty()) {
    // Fields are flat here.
    absl::string_view field = detail->field();
    absl::ConsumePrefix(&field, "options.");
    if (absl::ConsumePrefix(&field, "prompt.chat")) field = "messages";
    param = std::string(field);
  }
  HttpError error;
  error.status = code.status;
  if (detail) error.retry_after_ms = detail->retry_delay_ms();
  error.body = CompactJson(
      Json{{"error",
            {{"message", std::string(status.message())},
             {"type", code.type},
             {"param", param},
             {"code", detail ? Json(absl::AsciiStrToLower(detail->reason())) : Json()}}}});
  return error;
}

OpenAiResponse::OpenAiResponse(const OpenAiRequest& request, uint32_t n,
                               std::shared_ptr<const Tokenizer> tokenizer, int64_t created)
    : chat_(request.chat),
      include_usage_(request.include_usage),
      continuous_usage_(request.continuous_usage),
      with_logprobs_(request.logprobs),
      tokenizer_(std::move(tokenizer)),
      created_(created),
      n_(n),
      prompts_(1 + request.more.size()),
      choices_(n * prompts_.size()) {
  for (size_t i = 0; i < prompts_.size() && request.echo; ++i) {
    const v1::GenerateRequest& generate = i == 0 ? request.generate : request.more[i - 1];
    prompts_[i].echo = generate.text();
    if (generate.has_token_ids() && tokenizer_ != nullptr) {
      prompts_[i].echo = tokenizer_->Decode(generate.token_ids().ids(), SpecialTokens::kSkip);
    }
  }
}

void OpenAiResponse::Start(const v1::GenerateResponse::Started& started, Prompt* prompt) {
  // That of the prompt which began first: one answer has one id.
  if (id_.empty()) id_ = absl::StrCat(chat_ ? "chatcmpl-" : "cmpl-", started.request_id());
  model_ = started.model();
  prompt->reasoning_open = started.reasoning_open();
}

OpenAiResponse::Choice* OpenAiResponse::Find(uint32_t prompt, uint32_t choice) {
  return choice < n_ ? &choices_[prompt * n_ + choice] : nullptr;
}

Json OpenAiResponse::Head(const char* object) const {
  return {{"id", id_}, {"object", object}, {"created", created_}, {"model", model_}};
}

std::string OpenAiResponse::Event(const Json& json) const {
  return absl::StrCat("data: ", CompactJson(json), "\n\n");
}

Json OpenAiResponse::Chunk(uint32_t choice, Json delta, Json logprobs, Json finish) const {
  Json chunk = Head(chat_ ? "chat.completion.chunk" : "text_completion");
  Json entry = {{"index", choice}};
  if (chat_) {
    entry["delta"] = std::move(delta);
  } else {
    entry["text"] = std::move(delta);
  }
  entry["logprobs"] = std::move(logprobs);
  entry["finish_reason"] = std::move(finish);
  chunk["choices"] = Json::array({std::move(entry)});
  if (continuous_usage_) chunk["usage"] = Usage();
  return chunk;
}

Json OpenAiResponse::Usage() const {
  uint32_t generated = 0;
  for (const Choice& choice : choices_) generated += choice.generated;
  v1::Usage ended;
  for (const Prompt& prompt : prompts_) AddRequest(prompt.usage, &ended);
  return {{"prompt_tokens", ended.prompt_tokens()},
          {"completion_tokens", generated},
          {"total_tokens", ended.prompt_tokens() + generated},
          {"prompt_tokens_details", {{"cached_tokens", ended.cached_tokens()}}},
          {"completion_tokens_details", {{"reasoning_tokens", ended.reasoning_tokens()}}},
          {"cost_dollars", ended.cost_dollars()}};
}

Json OpenAiResponse::TokenLogprob(uint32_t id, float logprob) const {
  std::string piece;
  if (tokenizer_ != nullptr) piece = std::string(tokenizer_->Bytes(id));
  Json bytes = Json::array();
  for (const char c : piece) bytes.push_back(static_cast<uint8_t>(c));
  return {{"token", tokenizer_ != nullptr ? piece : absl::StrCat("token_id:", id)},
          {"logprob", Logprob(logprob)},
          {"bytes", std::move(bytes)}};
}

Json OpenAiResponse::LogprobsOf(const Tokens& tokens, Choice& choice) const {
  return chat_ ? ChatLogprobs(tokens) : TextLogprobs(tokens, choice);
}

Json OpenAiResponse::ChatLogprobs(const Tokens& tokens) const {
  Json content = Json::array();
  for (const v1::GeneratedToken& token : tokens) {
    Json entry = TokenLogprob(token.token_id(), token.logprob());
    Json top = Json::array();
    for (const v1::TokenLogprob& best : token.top()) {
      top.push_back(TokenLogprob(best.token_id(), best.logprob()));
    }
    entry["top_logprobs"] = std::move(top);
    content.push_back(std::move(entry));
  }
  return {{"content", std::move(content)}};
}

Json OpenAiResponse::TextLogprobs(const Tokens& tokens, Choice& choice) const {
  Json pieces = Json::array(), logprobs = Json::array(), tops = Json::array(),
       offsets = Json::array();
  for (const v1::GeneratedToken& token : tokens) {
    const Json entry = TokenLogprob(token.token_id(), token.logprob());
    pieces.push_back(entry["token"]);
    // Nothing comes before a prompt's first token that could tell how likely it was.
    logprobs.push_back(token.has_logprob() ? entry["logprob"] : Json());
    Json top = Json::object();
    for (const v1::TokenLogprob& best : token.top()) {
      const Json of_best = TokenLogprob(best.token_id(), best.logprob());
      // Two tokens may have one text where half characters stand for themselves: the best counts.
      const std::string text = of_best["token"].get<std::string>();
      if (!top.contains(text)) top[text] = of_best["logprob"];
    }
    tops.push_back(token.has_logprob() ? std::move(top) : Json());
    offsets.push_back(choice.characters);
    const std::string piece = entry["token"].get<std::string>();
    choice.characters += static_cast<size_t>(std::count_if(piece.begin(), piece.end(), [](char c) {
      return (static_cast<uint8_t>(c) & 0xc0) != 0x80;
    }));
  }
  return {{"tokens", std::move(pieces)},
          {"token_logprobs", std::move(logprobs)},
          {"top_logprobs", std::move(tops)},
          {"text_offset", std::move(offsets)}};
}

std::string OpenAiResponse::Tagged(Choice& choice, const v1::TextSpan& span) const {
  const bool thinks = span.kind() == v1::SPAN_KIND_REASONING;
  std::string tag;
  if (!choice.begun) {
    choice.begun = true;
    choice.thinking = PromptOf(choice).reasoning_open;
    if (thinks && !choice.thinking) tag = "<think>";
  }
  if (choice.thinking && !thinks) tag = "</think>";
  choice.thinking = thinks;
  return absl::StrCat(tag, span.text());
}

std::string OpenAiResponse::TokenEvents(const v1::GenerateResponse::Tokens& tokens,
                                        Choice& choice) {
  const uint32_t index = IndexOf(choice);
  std::string events;
  if (chat_ && !choice.role_sent) {
    choice.role_sent = true;
    absl::StrAppend(&events, Event(Chunk(index, {{"role", "assistant"}, {"content", ""}}, {}, {})));
  }
  choice.generated += static_cast<uint32_t>(tokens.tokens_size());
  Json logprobs;
  if (with_logprobs_ && tokens.tokens_size() > 0) logprobs = LogprobsOf(tokens.tokens(), choice);
  if (const std::string echo = Echo(choice); !echo.empty()) {
    absl::StrAppend(&events, Event(Chunk(index, echo, {}, {})));
  }
  for (const v1::TextSpan& span : tokens.spans()) {
    Json delta;
    if (!chat_) {
      delta = Tagged(choice, span);
    } else if (span.kind() == v1::SPAN_KIND_REASONING) {
      delta = {{"reasoning_content", span.text()}, {"reasoning", span.text()}};
    } else {
      delta = {{"content", span.text()}};
    }
    absl::StrAppend(&events,
                    Event(Chunk(index, std::move(delta), std::exchange(logprobs, Json()), {})));
  }
  // Their text is held back yet, but their logprobs are not.
  if (!logprobs.is_null()) {
    absl::StrAppend(
        &events, Event(Chunk(index, chat_ ? Json::object() : Json(""), std::move(logprobs), {})));
  }
  return events;
}

std::string OpenAiResponse::Echo(Choice& choice) const {
  return std::exchange(choice.echoed, true) ? "" : PromptOf(choice).echo;
}

std::string OpenAiResponse::PromptEvents(const v1::GenerateResponse::Prompt& tokens,
                                         uint32_t prompt) {
  std::string events;
  for (uint32_t i = 0; i < n_; ++i) {
    Choice& choice = *Find(prompt, i);
    absl::StrAppend(&events, Event(Chunk(IndexOf(choice), Echo(choice),
                                         LogprobsOf(tokens.tokens(), choice), {})));
  }
  return events;
}

void OpenAiResponse::NoteFinished(const v1::GenerateResponse::Finished& finished, Choice* choice) {
  choice->finished = finished;
  AddChoice(finished.usage(), finished.choice(), &prompts_[IndexOf(*choice) / n_].usage);
}

std::string OpenAiResponse::Events(const v1::GenerateResponse& message, uint32_t prompt) {
  if (message.has_started()) Start(message.started(), &prompts_[prompt]);
  if (message.has_prompt()) return PromptEvents(message.prompt(), prompt);
  const v1::GenerateResponse::Finished& finished = message.finished();
  Choice* const choice =
      Find(prompt, message.has_finished() ? finished.choice() : message.tokens().choice());
  if (choice == nullptr) return "";
  if (message.has_tokens()) return TokenEvents(message.tokens(), *choice);
  if (!message.has_finished()) return "";
  NoteFinished(finished, choice);
  Json chunk =
      Chunk(IndexOf(*choice), chat_ ? Json::object() : Json(""), {}, FinishOf(finished.reason()));
  if (!finished.stop().empty()) chunk["choices"][0]["stop_reason"] = finished.stop();
  return Event(chunk);
}

std::string OpenAiResponse::LastEvents() const {
  std::string events;
  if (include_usage_) {
    Json chunk = Head(chat_ ? "chat.completion.chunk" : "text_completion");
    chunk["choices"] = Json::array();
    chunk["usage"] = Usage();
    events = Event(chunk);
  }
  return absl::StrCat(events, "data: [DONE]\n\n");
}

void OpenAiResponse::GatherLogprobs(const Tokens& tokens, Choice& choice) const {
  Json more = LogprobsOf(tokens, choice);
  if (choice.logprobs.is_null()) {
    choice.logprobs = std::move(more);
    return;
  }
  for (auto& [name, list] : more.items()) {
    for (Json& entry : list) choice.logprobs[name].push_back(std::move(entry));
  }
}

void OpenAiResponse::Gather(const v1::GenerateResponse& message, uint32_t prompt) {
  if (message.has_started()) Start(message.started(), &prompts_[prompt]);
  for (uint32_t i = 0; i < n_ && message.has_prompt(); ++i) {
    GatherLogprobs(message.prompt().tokens(), *Find(prompt, i));
  }
  Choice* const found = Find(
      prompt, message.has_finished() ? message.finished().choice() : message.tokens().choice());
  if (found == nullptr) return;
  if (message.has_finished()) NoteFinished(message.finished(), found);
  if (!message.has_tokens()) return;
  Choice& choice = *found;
  choice.generated += static_cast<uint32_t>(message.tokens().tokens_size());
  if (with_logprobs_) GatherLogprobs(message.tokens().tokens(), choice);
  choice.text += Echo(choice);
  for (const v1::TextSpan& span : message.tokens().spans()) {
    if (!chat_) {
      choice.text += Tagged(choice, span);
    } else {
      (span.kind() == v1::SPAN_KIND_REASONING ? choice.reasoning : choice.text) += span.text();
    }
  }
}

std::string OpenAiResponse::Whole() const {
  Json json = Head(chat_ ? "chat.completion" : "text_completion");
  Json choices = Json::array();
  for (size_t i = 0; i < choices_.size(); ++i) {
    const Choice& choice = choices_[i];
    Json entry = {{"index", i}};
    if (chat_) {
      Json message = {{"role", "assistant"}, {"content", choice.text}};
      if (!choice.reasoning.empty()) {
        message["reasoning_content"] = choice.reasoning;
        message["reasoning"] = choice.reasoning;
      }
      entry["message"] = std::move(message);
    } else {
      entry["text"] = choice.text;
    }
    entry["logprobs"] = choice.logprobs;
    entry["finish_reason"] = FinishOf(choice.finished.reason());
    if (!choice.finished.stop().empty()) entry["stop_reason"] = choice.finished.stop();
    choices.push_back(std::move(entry));
  }
  json["choices"] = std::move(choices);
  json["usage"] = Usage();
  return CompactJson(json);
}

}  // namespace whalepod
