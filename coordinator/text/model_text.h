// What a deployment knows of text.
#pragma once

#include <memory>
#include <string>

#include "coordinator/text/chat_template.h"
#include "coordinator/text/tokenizer.h"

namespace whalepod {

// Immutable. A checkpoint without a usable tokenizer serves token ids, one without a chat template
// no conversations; `no_tokenizer` and `no_chat` say why.
struct ModelText {
  std::shared_ptr<const Tokenizer> tokenizer;  // null: none
  std::shared_ptr<const ChatTemplate> chat;    // null: none
  std::string no_tokenizer = "the checkpoint has no tokenizer.json";
  std::string no_chat = "the checkpoint has no tokenizer.json";
};

// Of the checkpoint in `folder`.
ModelText LoadModelText(const std::string& folder);

}  // namespace whalepod
