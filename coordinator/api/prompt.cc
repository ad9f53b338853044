#include "coordinator/api/prompt.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "coordinator/api/errors.h"

namespace whalepod {
namespace {

absl::Status Lacking(const char* field, const char* reason, const std::string& why) {
  return WithField(
      absl::FailedPreconditionError(absl::StrCat(
          field, " cannot be encoded by this deployment, send prompt.token_ids: ", why)),
      field, reason);
}

// An error of the tokenizer or the template about what the client sent.
absl::Status AboutField(const char* field, const absl::Status& status) {
  return WithField(absl::Status(status.code(), absl::StrCat(field, ": ", status.message())), field,
                   "MALFORMED");
}

ChatMessage MessageOf(const v1::ChatMessage& from) {
  ChatMessage message;
  message.role = from.role();
  if (from.has_content()) message.content = from.content();
  for (const v1::ToolCall& call : from.tool_calls()) {
    message.tool_calls.push_back({call.type(), call.name(), call.arguments()});
  }
  return message;
}

}  // namespace

absl::StatusOr<Prompt> EncodeText(const ModelText& model, const std::string& text, AddBos add_bos) {
  constexpr char kField[] = "prompt.text";
  if (model.tokenizer == nullptr) return Lacking(kField, "NO_TOKENIZER", model.no_tokenizer);
  if (!model.tokenizer->bos_id().has_value()) add_bos = AddBos::kNo;
  absl::StatusOr<std::vector<uint32_t>> ids = model.tokenizer->Encode(text, add_bos);
  if (!ids.ok()) return AboutField(kField, ids.status());
  Prompt prompt{.field = kField, .ids = *std::move(ids), .text = text};
  if (LeavesReasoningOpen(*model.tokenizer, prompt.ids)) prompt.reasoning = ReasoningStart::kOpen;
  return prompt;
}

absl::StatusOr<Prompt> EncodeChat(const ModelText& model, const v1::Chat& chat) {
  constexpr char kField[] = "prompt.chat";
  if (model.chat == nullptr) return Lacking(kField, "NO_CHAT_TEMPLATE", model.no_chat);
  std::vector<ChatMessage> messages;
  for (const v1::ChatMessage& message : chat.messages()) messages.push_back(MessageOf(message));
  const absl::StatusOr<RenderedPrompt> rendered =
      model.chat->Render(messages, /*add_generation_prompt=*/true);
  if (!rendered.ok()) return AboutField(kField, rendered.status());
  absl::StatusOr<std::vector<uint32_t>> ids = model.tokenizer->EncodeParts(rendered->parts);
  if (!ids.ok()) return AboutField(kField, ids.status());
  return Prompt{
      .field = kField,
      .ids = *std::move(ids),
      .reasoning = rendered->reasoning_open ? ReasoningStart::kOpen : ReasoningStart::kClosed,
      .text = rendered->Text()};
}

Prompt PromptOfIds(const ModelText& model, const v1::TokenIds& ids) {
  Prompt prompt{.field = "prompt.token_ids"};
  prompt.ids.assign(ids.ids().begin(), ids.ids().end());
  if (model.tokenizer != nullptr && LeavesReasoningOpen(*model.tokenizer, prompt.ids)) {
    prompt.reasoning = ReasoningStart::kOpen;
  }
  return prompt;
}

absl::StatusOr<Prompt> ReadPrompt(const ModelText& model, const v1::GenerateRequest& request) {
  switch (request.prompt_case()) {
    case v1::GenerateRequest::kText:
      return EncodeText(model, request.text(), AddBos::kYes);
    case v1::GenerateRequest::kChat:
      return EncodeChat(model, request.chat());
    case v1::GenerateRequest::kTokenIds:
      return PromptOfIds(model, request.token_ids());
    case v1::GenerateRequest::PROMPT_NOT_SET:
      break;
  }
  return BadField("prompt", "MISSING", "not set", "token_ids, text or chat");
}

}  // namespace whalepod
