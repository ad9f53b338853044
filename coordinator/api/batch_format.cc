#include "coordinator/api/batch_format.h"

#include <algorithm>
#include <optional>
#include <set>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "base/compact_json.h"
#include "base/status.h"
#include "coordinator/api/errors.h"
#include "coordinator/api/openai_response.h"
#include "coordinator/checkpoint/json.h"
#include "coordinator/text/utf8.h"

namespace whalepod {
namespace {

using Json = nlohmann::json;
using OrderedJson = nlohmann::ordered_json;

constexpr size_t kMostCustomId = 512;

// A line's field that must be a text.
absl::StatusOr<std::string> Text(const Json& line, const char* key) {
  const auto it = line.find(key);
  if (it == line.end() || !it->is_string()) {
    return absl::InvalidArgumentError(
        absl::StrCat(key, " is ", it == line.end() ? "missing" : Shown(*it), ", must be a text"));
  }
  return it->get<std::string>();
}

absl::Status ReadLine(absl::string_view text, const std::string& url, std::set<std::string>* ids,
                      NewItem* item) {
  ASSIGN_OR_RETURN(const Json line, ParseJson(text, "JSON"));
  if (!line.is_object()) {
    return absl::InvalidArgumentError(absl::StrCat("expected an object, found ", line.type_name()));
  }
  ASSIGN_OR_RETURN(item->custom_id, Text(line, "custom_id"));
  if (item->custom_id.empty() || item->custom_id.size() > kMostCustomId) {
    return absl::InvalidArgumentError(absl::StrCat("custom_id has ", item->custom_id.size(),
                                                   " bytes, must have 1 to ", kMostCustomId));
  }
  if (!ids->insert(item->custom_id).second) {
    return absl::InvalidArgumentError(
        absl::StrCat("custom_id ", Quoted(item->custom_id), " stands in an earlier line too"));
  }
  ASSIGN_OR_RETURN(const std::string method, Text(line, "method"));
  if (method != "POST") {
    return absl::InvalidArgumentError(
        absl::StrCat("method is ", Quoted(method), ", must be \"POST\""));
  }
  ASSIGN_OR_RETURN(const std::string asked, Text(line, "url"));
  if (asked != kChatUrl && asked != kCompletionUrl) {
    return absl::InvalidArgumentError(
        absl::StrCat("url is ", Quoted(asked), ", must be ", kChatUrl, " or ", kCompletionUrl));
  }
  if (!url.empty() && asked != url) {
    return absl::InvalidArgumentError(
        absl::StrCat("url is ", Quoted(asked), ", must be the batch's endpoint ", url));
  }
  item->kind = asked == kChatUrl ? RequestKind::kChat : RequestKind::kCompletion;
  const auto body = line.find("body");
  if (body == line.end() || !body->is_object()) {
    return absl::InvalidArgumentError(absl::StrCat(
        "body is ", body == line.end() ? "missing" : Shown(*body), ", must be an object"));
  }
  item->request = body->dump();
  return absl::OkStatus();
}

NewItem ItemOfLine(absl::string_view text, uint32_t number, const std::string& url,
                   std::set<std::string>* ids) {
  NewItem item;
  item.line = number;
  if (absl::Status read = ReadLine(text, url, ids, &item); !read.ok()) {
    item.request.clear();
    item.failed.emplace();
    item.failed->set_error_code("invalid_line");
    // It may quote the line, which may be anything.
    Utf8Assembler valid;
    std::string why = valid.Add(absl::StrCat("line ", number, ": ", read.message()));
    item.failed->set_error_message(why + valid.Finish());
    return item;
  }
  // What is wrong whatever the model: told now, as HTTP would.
  if (absl::Status parsed = ParseItem(item.kind, item.request).status(); !parsed.ok()) {
    item.failed = AnswerOfError(Annotate(parsed, absl::StrCat("line ", number)));
  }
  return item;
}

}  // namespace

v1::JobAnswer AnswerOfError(const absl::Status& status) {
  const HttpError error = ToHttpError(status);
  v1::JobAnswer answer;
  answer.set_status_code(static_cast<uint32_t>(error.status));
  answer.set_body(error.body);
  return answer;
}

absl::StatusOr<std::vector<NewItem>> ParseBatch(absl::string_view text, const std::string& url) {
  std::vector<NewItem> items;
  std::set<std::string> ids;
  uint32_t number = 0;
  while (!text.empty()) {
    const size_t end = std::min(text.find('\n'), text.size());
    const absl::string_view line = absl::StripAsciiWhitespace(text.substr(0, end));
    text.remove_prefix(std::min(end + 1, text.size()));
    ++number;
    if (line.empty()) continue;
    if (items.size() == kMostBatchLines) {
      return BadField("jsonl", "TOO_LONG", absl::StrCat("more than ", kMostBatchLines, " requests"),
                      absl::StrCat("at most ", kMostBatchLines));
    }
    items.push_back(ItemOfLine(line, number, url, &ids));
  }
  if (items.empty()) return BadField("jsonl", "MISSING", "empty", "at least one line");
  return items;
}

absl::StatusOr<OpenAiRequest> ParseItem(RequestKind kind, const std::string& request) {
  OpenAiRequest parsed;
  if (kind == RequestKind::kGenerate) {
    if (!parsed.generate.ParseFromString(request)) {
      return absl::InvalidArgumentError("the request is no GenerateRequest");
    }
    parsed.chat = parsed.generate.has_chat();
    parsed.logprobs = parsed.generate.options().has_logprobs();
    return parsed;
  }
  ASSIGN_OR_RETURN(
      parsed, kind == RequestKind::kChat ? ParseChatCompletion(request) : ParseCompletion(request));
  if (parsed.stream) return BadField("stream", "CONTRADICTION", "true", "false or absent in a job");
  if (!parsed.more.empty()) {
    return BadField("prompt", "CONTRADICTION", absl::StrCat(1 + parsed.more.size(), " prompts"),
                    "one; a job has an item for each");
  }
  return parsed;
}

std::string BatchLine(const v1::Job& job, const v1::JobItem& item) {
  const v1::JobAnswer& answer = item.answer();
  OrderedJson response, error;
  if (answer.status_code() != 0) {
    OrderedJson body = OrderedJson::parse(answer.body(), nullptr, /*allow_exceptions=*/false);
    response = {{"status_code", answer.status_code()},
                {"request_id", answer.request_id()},
                {"body", body.is_discarded() ? OrderedJson() : std::move(body)}};
  } else {
    error = {{"code", answer.error_code()}, {"message", answer.error_message()}};
    if (item.line() != 0) error["line"] = item.line();
  }
  return CompactJson(
             OrderedJson{{"id", absl::StrCat("batch_req_", job.id(), "-", item.index())},
                         {"custom_id",
                          item.custom_id().empty() ? OrderedJson() : OrderedJson(item.custom_id())},
                         {"response", std::move(response)},
                         {"error", std::move(error)}}) +
         "\n";
}

}  // namespace whalepod
