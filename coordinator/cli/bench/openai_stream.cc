#include "coordinator/cli/bench/openai_stream.h"

#include "absl/strings/match.h"
#include "absl/strings/strip.h"
#include "base/compact_json.h"
#include "coordinator/text/text_json.h"
#include "nlohmann/json.hpp"

namespace whalepod {
namespace {

using Json = nlohmann::json;

// 0 where there is no such number.
int64_t Number(const Json& object, absl::string_view key) {
  const Json* const member = Member(object, key);
  return member != nullptr && member->is_number_integer() ? member->get<int64_t>() : 0;
}

std::string Text(const Json& object, absl::string_view key) {
  const Json* const member = Member(object, key);
  if (member == nullptr) return "";
  return member->is_string() ? member->get<std::string>() : member->dump();
}

Json Messages(const v1::Chat& chat) {
  Json messages = Json::array();
  for (const v1::ChatMessage& message : chat.messages()) {
    Json json = {{"role", message.role()}};
    if (message.has_content()) json["content"] = message.content();
    for (const v1::ToolCall& call : message.tool_calls()) {
      const Json function = {{"name", call.name()}, {"arguments", call.arguments()}};
      json["tool_calls"].push_back({{"type", call.type()}, {"function", function}});
    }
    messages.push_back(std::move(json));
  }
  return messages;
}

}  // namespace

StreamedCall MakeStreamedCall(const v1::GenerateRequest& request, const std::string& model) {
  Json body = {{"model", model}, {"stream", true}, {"stream_options", {{"include_usage", true}}}};
  StreamedCall made;
  made.path = request.has_chat() ? "/v1/chat/completions" : "/v1/completions";
  if (request.has_chat()) body["messages"] = Messages(request.chat());
  if (request.has_text()) body["prompt"] = request.text();
  if (request.has_token_ids()) body["prompt"] = request.token_ids().ids();
  const v1::GenerationOptions& options = request.options();
  if (options.has_max_tokens()) body["max_tokens"] = options.max_tokens();
  if (options.has_temperature()) body["temperature"] = options.temperature();
  if (options.has_seed()) body["seed"] = options.seed();
  if (options.has_ignore_eos()) body["ignore_eos"] = options.ignore_eos();
  // The model's name may be anything.
  made.body = CompactJson(body);
  return made;
}

void OpenAiStream::Fail(const std::string& name, const std::string& message) {
  done_ = true;
  if (!record_->completed()) return;
  record_->failure = name;
  record_->message = message;
}

void OpenAiStream::Feed(absl::string_view bytes, double now) {
  while (!done_ && !bytes.empty()) {
    const size_t end = bytes.find('\n');
    line_.append(bytes.data(), std::min(end, bytes.size()));
    if (end == absl::string_view::npos) return;
    bytes.remove_prefix(end + 1);
    OnLine(absl::StripSuffix(line_, "\r"), now);
    line_.clear();
  }
}

void OpenAiStream::OnLine(absl::string_view line, double now) {
  if (line.empty()) {
    if (has_data_) OnEvent(now);
    has_data_ = false;
    data_.clear();
    return;
  }
  if (!absl::ConsumePrefix(&line, "data:")) return;
  absl::ConsumePrefix(&line, " ");
  if (has_data_) data_ += '\n';
  data_.append(line.data(), line.size());
  has_data_ = true;
}

void OpenAiStream::OnEvent(double now) {
  if (data_ == "[DONE]") {
    done_ = true;
    return;
  }
  const Json event = Json::parse(data_, nullptr, false);
  if (!event.is_object()) return Fail("bad event", "not a JSON object: " + QuotedText(data_));
  if (const Json* const error = Member(event, "error")) {
    const std::string type = error->is_object() ? Text(*error, "type") : "";
    return Fail("error event" + (type.empty() ? "" : " " + type),
                error->is_object() ? Text(*error, "message") : JsonText(*error));
  }
  const Json* const choices = Member(event, "choices");
  if (choices != nullptr && choices->is_array() && !choices->empty())
    record_->chunks.push_back(now);
  const Json* const usage = Member(event, "usage");
  if (usage == nullptr || !usage->is_object() || Number(*usage, "completion_tokens") == 0) return;
  record_->output_tokens = Number(*usage, "completion_tokens");
  record_->counted_by_server = true;
  if (const int64_t prompt = Number(*usage, "prompt_tokens")) record_->input_tokens = prompt;
}

void OpenAiStream::End() {
  if (!done_) Fail("UNAVAILABLE", "the stream ended before its end");
  if (record_->completed() && record_->chunks.empty()) Fail("no token", "no chunk has choices");
  if (!record_->counted_by_server) {
    record_->output_tokens = static_cast<int64_t>(record_->chunks.size());
  }
}

}  // namespace whalepod
