#include "coordinator/text/model_text.h"

#include <utility>

namespace whalepod {

ModelText LoadModelText(const std::string& folder) {
  ModelText text;
  absl::StatusOr<std::shared_ptr<const Tokenizer>> tokenizer = Tokenizer::FromFolder(folder);
  if (!tokenizer.ok()) {
    if (!absl::IsNotFound(tokenizer.status())) {
      text.no_tokenizer = text.no_chat = std::string(tokenizer.status().message());
    }
    return text;
  }
  text.tokenizer = *std::move(tokenizer);
  absl::StatusOr<ChatTemplate> chat = ChatTemplate::FromFolder(folder);
  if (chat.ok()) {
    text.chat = std::make_shared<const ChatTemplate>(*std::move(chat));
  } else {
    text.no_chat = std::string(chat.status().message());
  }
  return text;
}

}  // namespace whalepod
