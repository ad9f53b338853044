// Chat messages, and the templates they are rendered by.
#include <cstdint>
#include <string>
#include <vector>

#include "coordinator/text/chat_template.h"
#include "coordinator/text/reasoning_parser.h"
#include "coordinator/text/tokenizer.h"
#include "tests/coordinator/text/chat_templates.h"
#include "tests/coordinator/text/test_tokenizer.h"
#include "tests/fuzz/fuzz.h"

namespace whalepod {
namespace {

// Fields of messages are separated by 0x1F, messages by 0x1E: role, content, then tool calls in
// threes.
std::vector<ChatMessage> Messages(const std::string& input) {
  std::vector<ChatMessage> messages;
  std::vector<std::string> fields(1);
  const auto end_message = [&messages, &fields] {
    ChatMessage message{.role = fields[0]};
    if (fields.size() > 1 && fields[1] != "\x1C") message.content = fields[1];
    for (size_t i = 2; i + 2 < fields.size(); i += 3) {
      message.tool_calls.push_back({fields[i], fields[i + 1], fields[i + 2]});
    }
    messages.push_back(message);
    fields.assign(1, "");
  };
  for (const char c : input) {
    if (c == '\x1E') {
      end_message();
    } else if (c == '\x1F') {
      fields.emplace_back();
    } else {
      fields.back().push_back(c);
    }
  }
  if (fields.size() > 1 || !fields[0].empty()) end_message();
  return messages;
}

void CheckChat(const ChatTemplate& chat, const std::shared_ptr<const Tokenizer>& tokenizer,
               const std::vector<ChatMessage>& messages) {
  const auto prompt = chat.Render(messages, true);
  if (!prompt.ok()) return;
  const auto ids = tokenizer->EncodeParts(prompt->parts);
  FUZZ_CHECK(ids.ok());
  FUZZ_CHECK(tokenizer->Decode(*ids, SpecialTokens::kKeep) == prompt->Text());
  if (prompt->reasoning_open) FUZZ_CHECK(LeavesReasoningOpen(*tokenizer, *ids));
  // As an output: spans are the text, less the tags.
  ReasoningParser parser(tokenizer, ReasoningStart::kOpen, SpecialTokens::kKeep);
  std::vector<TextSpan> spans;
  for (const uint32_t id : *ids) parser.Add(id, spans);
  parser.Finish(spans);
  size_t bytes = 0;
  for (const TextSpan& span : spans) bytes += span.text.size();
  FUZZ_CHECK(bytes <= prompt->Text().size());
}

}  // namespace
}  // namespace whalepod

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t size) {
  using whalepod::ChatTemplate;
  const std::string input(reinterpret_cast<const char*>(bytes), size);
  static const auto tokenizer =
      *whalepod::Tokenizer::FromText(whalepod::TestTokenizerJson().dump());
  static const std::vector<ChatTemplate> templates = [] {
    std::vector<ChatTemplate> made;
    for (const std::string& source :
         {whalepod::R1Template(true), whalepod::DistillTemplate(), whalepod::LaterTemplate()}) {
      made.push_back(*ChatTemplate::FromConfig({.bos_token = "<eos>", .chat_template = source}));
    }
    return made;
  }();
  const auto messages = whalepod::Messages(input);
  for (const ChatTemplate& chat : templates) whalepod::CheckChat(chat, tokenizer, messages);
  whalepod::RecognizeChatTemplate(input).status().IgnoreError();
  whalepod::ParseTokenizerConfig(input).status().IgnoreError();
  return 0;
}
