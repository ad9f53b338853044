// tokenizer_config.json: what a checkpoint says of its tokenizer's special tokens and of chat.
#pragma once

#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace whalepod {

struct TokenizerConfig {
  // Given as strings, or as objects with a "content".
  std::optional<std::string> bos_token;
  std::optional<std::string> eos_token;
  std::optional<std::string> pad_token;
  bool add_bos_token = false;  // raw text begins with bos_token
  // As it stands; of several named ones, "default".
  std::optional<std::string> chat_template;
};

// INVALID_ARGUMENT, without the file's name, names the key.
absl::StatusOr<TokenizerConfig> ParseTokenizerConfig(absl::string_view text);

// `folder`/tokenizer_config.json; where there is a `folder`/chat_template.jinja, that is the
// template. NOT_FOUND or INVALID_ARGUMENT naming the file.
absl::StatusOr<TokenizerConfig> LoadTokenizerConfig(const std::string& folder);

}  // namespace whalepod
