#include "coordinator/text/tokenizer.h"

#include <algorithm>
#include <deque>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "coordinator/text/normalizer.h"
#include "coordinator/text/text_json.h"
#include "coordinator/text/utf8.h"

namespace whalepod {

// One call of Encode: the ids so far and what a thread needs to make them.
class Tokenizer::Encoder {
 public:
  explicit Encoder(const Tokenizer& tokenizer) : tokenizer_(tokenizer) {}

  void Push(uint32_t id) { ids_.push_back(id); }
  std::vector<uint32_t> TakeIds() { return std::move(ids_); }

  // Text in which added tokens are found. It must stay as long as the Encoder.
  absl::Status AddWithControl(absl::string_view text) {
    return Around(tokenizer_.raw_, text, [this](absl::string_view gap) {
      return Around(tokenizer_.normalized_, Normalized(gap),
                    [this](absl::string_view plain) { return Split(plain, 0); });
    });
  }

  // Text that is text throughout. It must stay as long as the Encoder.
  absl::Status AddPlain(absl::string_view text) { return Split(Normalized(text), 0); }

 private:
  // Pieces up to this size are remembered; longer ones hardly come again.
  static constexpr size_t kMaxRemembered = 64;

  // A piece's place among the ids.
  struct Range {
    uint32_t begin;
    uint32_t count;
  };

  absl::string_view Normalized(absl::string_view text) {
    if (!tokenizer_.nfc_ || IsPlainlyNfc(text)) return text;
    return owned_.emplace_back(Nfc(text));
  }

  // Calls `between` with the texts around the tokens that `matcher` finds.
  template <typename Between>
  absl::Status Around(const AddedTokenMatcher& matcher, absl::string_view text,
                      const Between& between) {
    size_t done = 0;
    while (done < text.size()) {
      const AddedTokenMatcher::Match match = matcher.Find(text, done);
      if (match.begin > done) RETURN_IF_ERROR(between(text.substr(done, match.begin - done)));
      if (match.end > match.begin) ids_.push_back(match.id);
      done = match.end;
    }
    return absl::OkStatus();
  }

  // Cuts `text` by the expressions from `level` on. Matches and what lies between them are pieces.
  absl::Status Split(absl::string_view text, size_t level) {
    if (text.empty()) return absl::OkStatus();
    if (level == tokenizer_.splits_.size()) {
      EncodePiece(text);
      return absl::OkStatus();
    }
    const Regex& regex = tokenizer_.splits_[level];
    size_t done = 0;
    while (done < text.size()) {
      ASSIGN_OR_RETURN(const Regex::Match match, regex.Find(text, done, scratch_));
      RETURN_IF_ERROR(Split(text.substr(done, match.begin - done), level + 1));
      RETURN_IF_ERROR(Split(text.substr(match.begin, match.end - match.begin), level + 1));
      done = match.end;
    }
    return absl::OkStatus();
  }

  void EncodePiece(absl::string_view piece) {
    if (piece.size() == 1 || piece.size() > kMaxRemembered) {
      tokenizer_.bpe_.Encode(piece, bpe_scratch_, ids_);
      return;
    }
    const uint32_t begin = static_cast<uint32_t>(ids_.size());
    const auto [known, added] = ranges_.try_emplace(piece, Range{begin, 0});
    if (added) {
      tokenizer_.bpe_.Encode(piece, bpe_scratch_, ids_);
      known->second.count = static_cast<uint32_t>(ids_.size()) - begin;
      return;
    }
    const Range range = known->second;
    ids_.resize(ids_.size() + range.count);
    std::copy_n(ids_.begin() + range.begin, range.count, ids_.begin() + begin);
  }

  const Tokenizer& tokenizer_;
  std::vector<uint32_t> ids_;
  std::deque<std::string> owned_;  // normalised texts, into which the keys of ranges_ point
  absl::flat_hash_map<absl::string_view, Range> ranges_;
  Regex::Scratch scratch_;
  Bpe::Scratch bpe_scratch_;
};

namespace {

absl::Status CheckText(absl::string_view text) {
  if (text.size() > Tokenizer::kMaxTextBytes) {
    return absl::InvalidArgumentError(absl::StrCat("text of ", text.size(), " bytes, at most ",
                                                   Tokenizer::kMaxTextBytes, " are allowed"));
  }
  const size_t invalid = FindInvalidUtf8(text);
  if (invalid == absl::string_view::npos) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      "text is not valid UTF-8: byte 0x",
      absl::Hex(static_cast<unsigned char>(text[invalid]), absl::kZeroPad2), " at byte ", invalid));
}

}  // namespace

absl::StatusOr<std::shared_ptr<const Tokenizer>> Tokenizer::FromFolder(const std::string& folder) {
  const std::string path = folder + "/tokenizer.json";
  const absl::StatusOr<std::string> text = ReadTextFile(path);
  if (!text.ok()) return Annotate(text.status(), path);
  absl::StatusOr<TokenizerConfig> config = LoadTokenizerConfig(folder);
  if (absl::IsNotFound(config.status())) config = TokenizerConfig();
  if (!config.ok()) return config.status();
  absl::StatusOr<std::shared_ptr<const Tokenizer>> tokenizer = FromText(*text, *config);
  if (!tokenizer.ok()) return Annotate(tokenizer.status(), path);
  return tokenizer;
}

absl::StatusOr<std::shared_ptr<const Tokenizer>> Tokenizer::FromFile(const std::string& path) {
  const absl::StatusOr<std::string> text = ReadTextFile(path);
  if (!text.ok()) return Annotate(text.status(), path);
  absl::StatusOr<std::shared_ptr<const Tokenizer>> tokenizer = FromText(*text);
  if (!tokenizer.ok()) return Annotate(tokenizer.status(), path);
  return tokenizer;
}

absl::StatusOr<std::shared_ptr<const Tokenizer>> Tokenizer::FromText(
    absl::string_view tokenizer_json, const TokenizerConfig& config) {
  ASSIGN_OR_RETURN(TokenizerSpec spec, ParseTokenizerJson(tokenizer_json));
  std::shared_ptr<Tokenizer> tokenizer(new Tokenizer);
  for (const TokenizerSpec::Added& added : spec.added) {
    tokenizer->added_[added.content] = added.id;
    if (added.normalized) {
      tokenizer->normalized_.Add(spec.nfc ? Nfc(added.content) : added.content, added.id);
    } else {
      tokenizer->raw_.Add(added.content, added.id);
    }
  }
  tokenizer->tokens_ = std::move(spec.tokens);
  tokenizer->nfc_ = spec.nfc;
  tokenizer->splits_ = std::move(spec.splits);
  tokenizer->bpe_ = std::move(spec.bpe);
  RETURN_IF_ERROR(tokenizer->TakeConfig(config));
  return tokenizer;
}

absl::Status Tokenizer::TakeConfig(const TokenizerConfig& config) {
  ASSIGN_OR_RETURN(bos_id_, SpecialId("bos_token", config.bos_token));
  ASSIGN_OR_RETURN(eos_id_, SpecialId("eos_token", config.eos_token));
  RETURN_IF_ERROR(SpecialId("pad_token", config.pad_token).status());
  add_bos_token_ = config.add_bos_token;
  if (add_bos_token_ && !bos_id_.has_value()) {
    return absl::InvalidArgumentError("tokenizer_config: add_bos_token without a bos_token");
  }
  return absl::OkStatus();
}

absl::StatusOr<std::optional<uint32_t>> Tokenizer::SpecialId(
    const char* key, const std::optional<std::string>& content) const {
  if (!content.has_value()) return std::nullopt;
  const std::optional<uint32_t> id = AddedToken(*content);
  if (id.has_value()) return id;
  return absl::InvalidArgumentError(absl::StrCat(
      "tokenizer_config: ", key, " ", QuotedText(*content), " is not one of added_tokens"));
}

std::optional<uint32_t> Tokenizer::AddedToken(absl::string_view content) const {
  const auto found = added_.find(content);
  if (found == added_.end()) return std::nullopt;
  return found->second;
}

absl::StatusOr<std::vector<uint32_t>> Tokenizer::Encode(absl::string_view text,
                                                        AddBos add_bos) const {
  RETURN_IF_ERROR(CheckText(text));
  Encoder encoder(*this);
  if (add_bos == AddBos::kYes) {
    if (!bos_id_.has_value()) {
      return absl::InvalidArgumentError("the tokenizer has no token for the beginning of a text");
    }
    encoder.Push(*bos_id_);
  }
  RETURN_IF_ERROR(encoder.AddWithControl(text));
  return encoder.TakeIds();
}

absl::StatusOr<std::vector<uint32_t>> Tokenizer::EncodeParts(
    absl::Span<const PromptPart> parts) const {
  std::deque<std::string> texts;  // outlives the encoder
  Encoder encoder(*this);
  std::string text;
  size_t bytes = 0;
  const auto flush = [&]() -> absl::Status {
    if (text.empty()) return absl::OkStatus();
    RETURN_IF_ERROR(CheckText(text));
    bytes += text.size();
    if (bytes > kMaxTextBytes) return absl::InvalidArgumentError("the prompt is too long");
    texts.push_back(std::exchange(text, ""));
    return encoder.AddPlain(texts.back());
  };
  for (const PromptPart& part : parts) {
    const std::optional<uint32_t> id =
        part.kind == PromptPart::Kind::kControl ? AddedToken(part.text) : std::nullopt;
    if (!id.has_value()) {
      text += part.text;
      continue;
    }
    RETURN_IF_ERROR(flush());
    encoder.Push(*id);
  }
  RETURN_IF_ERROR(flush());
  return encoder.TakeIds();
}

std::string Tokenizer::Decode(absl::Span<const uint32_t> ids, SpecialTokens special) const {
  std::string text;
  Utf8Assembler assembler;
  for (const uint32_t id : ids) {
    if (special == SpecialTokens::kSkip && IsSpecial(id)) continue;
    assembler.Add(Bytes(id), text);
  }
  return text + assembler.Finish();
}

}  // namespace whalepod
