// Runs the coordinator's text code on what a script sends; for comparisons with other
// implementations.
//
// usage: text_driver encode FOLDER   frames of text in, frames of ids out
//        text_driver decode FOLDER   frames of ids in, frames of text out (special tokens kept)
//        text_driver chat FOLDER     frames of {"messages": [...], "add_generation_prompt": bool}
//        in, for
//                                    each a frame of text and a frame of ids out
// A frame is a little-endian uint32 with its bytes, then the bytes. A text that is refused gives a
// frame of the single id 0xFFFFFFFF, and the reason on stderr.
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "coordinator/text/chat_template.h"
#include "coordinator/text/tokenizer.h"
#include "nlohmann/json.hpp"

namespace whalepod {
namespace {

bool ReadFrame(std::string& frame) {
  uint32_t size = 0;
  if (std::fread(&size, sizeof(size), 1, stdin) != 1) return false;
  frame.resize(size);
  return size == 0 || std::fread(frame.data(), size, 1, stdin) == 1;
}

void WriteFrame(const void* data, size_t size) {
  const uint32_t bytes = static_cast<uint32_t>(size);
  std::fwrite(&bytes, sizeof(bytes), 1, stdout);
  std::fwrite(data, 1, size, stdout);
}

void EncodeAll(const Tokenizer& tokenizer) {
  for (std::string frame; ReadFrame(frame);) {
    absl::StatusOr<std::vector<uint32_t>> ids = tokenizer.Encode(frame);
    if (!ids.ok()) {
      std::fprintf(stderr, "%s\n", ids.status().ToString().c_str());
      ids = std::vector<uint32_t>{~0u};
    }
    WriteFrame(ids->data(), ids->size() * sizeof(uint32_t));
  }
}

void DecodeAll(const Tokenizer& tokenizer) {
  for (std::string frame; ReadFrame(frame);) {
    std::vector<uint32_t> ids(frame.size() / sizeof(uint32_t));
    std::memcpy(ids.data(), frame.data(), ids.size() * sizeof(uint32_t));
    const std::string text = tokenizer.Decode(ids, SpecialTokens::kKeep);
    WriteFrame(text.data(), text.size());
  }
}

std::vector<ChatMessage> MessagesOf(const nlohmann::json& list) {
  std::vector<ChatMessage> messages;
  for (const nlohmann::json& from : list) {
    ChatMessage message{.role = from.at("role")};
    if (!from.at("content").is_null()) message.content = from.at("content").get<std::string>();
    for (const nlohmann::json& call : from.value("tool_calls", nlohmann::json::array())) {
      const nlohmann::json& function = call.at("function");
      message.tool_calls.push_back(
          {call.at("type"), function.at("name"), function.at("arguments")});
    }
    messages.push_back(std::move(message));
  }
  return messages;
}

bool ChatAll(const Tokenizer& tokenizer, const std::string& folder) {
  const absl::StatusOr<ChatTemplate> chat = ChatTemplate::FromFolder(folder);
  if (!chat.ok()) {
    std::fprintf(stderr, "%s\n", chat.status().ToString().c_str());
    return false;
  }
  for (std::string frame; ReadFrame(frame);) {
    const nlohmann::json request = nlohmann::json::parse(frame);
    const auto prompt = chat->Render(MessagesOf(request.at("messages")),
                                     request.at("add_generation_prompt").get<bool>());
    if (!prompt.ok()) {
      std::fprintf(stderr, "%s\n", prompt.status().ToString().c_str());
      return false;
    }
    const std::string text = prompt->Text();
    const auto ids = tokenizer.EncodeParts(prompt->parts);
    WriteFrame(text.data(), text.size());
    WriteFrame(ids->data(), ids->size() * sizeof(uint32_t));
  }
  return true;
}

int Run(int argc, char** argv) {
  const std::string command = argc > 2 ? argv[1] : "";
  if (command != "encode" && command != "decode" && command != "chat") {
    std::fprintf(stderr, "usage: text_driver encode|decode|chat FOLDER\n");
    return 2;
  }
  const absl::StatusOr<std::shared_ptr<const Tokenizer>> tokenizer = Tokenizer::FromFolder(argv[2]);
  if (!tokenizer.ok()) {
    std::fprintf(stderr, "%s\n", tokenizer.status().ToString().c_str());
    return 1;
  }
  if (command == "chat") return ChatAll(**tokenizer, argv[2]) ? 0 : 1;
  command == "encode" ? EncodeAll(**tokenizer) : DecodeAll(**tokenizer);
  return 0;
}

}  // namespace
}  // namespace whalepod

int main(int argc, char** argv) { return whalepod::Run(argc, argv); }
