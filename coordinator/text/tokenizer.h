// A checkpoint's tokenizer: text to token ids and back, exactly as Hugging Face's tokenizers does
// it.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "coordinator/text/added_tokens.h"
#include "coordinator/text/tokenizer_config.h"
#include "coordinator/text/tokenizer_json.h"

namespace whalepod {

enum class AddBos { kNo, kYes };
enum class SpecialTokens { kKeep, kSkip };

// A stretch of a prompt.
struct PromptPart {
  enum class Kind {
    kText,     // whatever it contains is text, also "<think>" or "<｜User｜>"
    kControl,  // the name of an added token, where the tokenizer has it; else text
  };
  Kind kind = Kind::kText;
  std::string text;

  friend bool operator==(const PromptPart&, const PromptPart&) = default;
};

// Immutable; shared by threads.
class Tokenizer {
 public:
  // Texts above this many bytes are refused.
  static constexpr size_t kMaxTextBytes = 256 << 20;

  // `folder`/tokenizer.json, and `folder`/tokenizer_config.json where there is one. NOT_FOUND where
  // the former is not, or INVALID_ARGUMENT naming file, key, what was expected and what was found.
  static absl::StatusOr<std::shared_ptr<const Tokenizer>> FromFolder(const std::string& folder);
  // A tokenizer.json alone: without BOS and EOS.
  static absl::StatusOr<std::shared_ptr<const Tokenizer>> FromFile(const std::string& path);
  // From the files' texts. INVALID_ARGUMENT also where a special token of `config` is not a token.
  static absl::StatusOr<std::shared_ptr<const Tokenizer>> FromText(
      absl::string_view tokenizer_json, const TokenizerConfig& config = TokenizerConfig());

  // The ids of `text`, in which added tokens (control tokens too) are found as tokenizers finds
  // them. With kYes, BOS first. INVALID_ARGUMENT: invalid UTF-8, with the byte where; too long; no
  // BOS token.
  absl::StatusOr<std::vector<uint32_t>> Encode(absl::string_view text,
                                               AddBos add_bos = AddBos::kNo) const;

  // The ids of a prompt made of parts. Neighbouring parts that are text are encoded as one text.
  // Equal to Encode of the joined parts where no text part contains an added token.
  absl::StatusOr<std::vector<uint32_t>> EncodeParts(absl::Span<const PromptPart> parts) const;

  // The text of `ids`: their bytes, with U+FFFD for what is not UTF-8. Ids without a token add
  // nothing.
  std::string Decode(absl::Span<const uint32_t> ids, SpecialTokens special) const;

  // What `id` adds to a text; nothing for an id that no token has.
  absl::string_view Bytes(uint32_t id) const {
    return id < tokens_.size() ? absl::string_view(tokens_[id].bytes) : absl::string_view();
  }
  // Whether `id` is an added token with "special": true (end of sequence, placeholders).
  bool IsSpecial(uint32_t id) const { return id < tokens_.size() && tokens_[id].special; }
  // One above the highest id of a token. A model's vocabulary may be larger: padding.
  uint32_t id_limit() const { return static_cast<uint32_t>(tokens_.size()); }

  // The id of the added token with this content.
  std::optional<uint32_t> AddedToken(absl::string_view content) const;
  std::optional<uint32_t> bos_id() const { return bos_id_; }
  std::optional<uint32_t> eos_id() const { return eos_id_; }
  // Whether transformers begins a raw text with BOS.
  bool add_bos_token() const { return add_bos_token_; }

 private:
  class Encoder;

  Tokenizer() = default;
  absl::Status TakeConfig(const TokenizerConfig& config);
  absl::StatusOr<std::optional<uint32_t>> SpecialId(
      const char* key, const std::optional<std::string>& content) const;

  std::vector<TokenizerSpec::Token> tokens_;
  absl::flat_hash_map<std::string, uint32_t> added_;
  AddedTokenMatcher raw_;         // found in the text as it is
  AddedTokenMatcher normalized_;  // found in the normalised text
  bool nfc_ = false;
  std::vector<Regex> splits_;
  Bpe bpe_;
  std::optional<uint32_t> bos_id_;
  std::optional<uint32_t> eos_id_;
  bool add_bos_token_ = false;
};

}  // namespace whalepod
