// tokenizer.json: whatever it holds, what is accepted encodes and decodes.
#include <cstdint>
#include <string>

#include "coordinator/text/detokenizer.h"
#include "coordinator/text/tokenizer.h"
#include "tests/coordinator/text/test_tokenizer.h"
#include "tests/fuzz/fuzz.h"

namespace whalepod {
namespace {

// The input is a JSON merge patch on a tokenizer that is right, since the 256 bytes every tokenizer
// needs are not found by chance; as it is, where it is no patch.
std::string Patched(absl::string_view input) {
  const nlohmann::json patch =
      nlohmann::json::parse(input.begin(), input.end(), nullptr, /*allow_exceptions=*/false);
  if (!patch.is_object()) return std::string(input);
  nlohmann::json json = TestTokenizerJson();
  json.merge_patch(patch);
  return json.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

void CheckText(const std::shared_ptr<const Tokenizer>& tokenizer, const std::string& text) {
  const auto ids = tokenizer->Encode(text);
  if (!ids.ok()) return;
  for (const uint32_t id : *ids) FUZZ_CHECK(id < tokenizer->id_limit());
  Detokenizer detokenizer(tokenizer, SpecialTokens::kKeep);
  std::string streamed;
  for (const uint32_t id : *ids) detokenizer.Add(id, streamed);
  detokenizer.Finish(streamed);
  FUZZ_CHECK(streamed == tokenizer->Decode(*ids, SpecialTokens::kKeep));
}

}  // namespace
}  // namespace whalepod

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t size) {
  const absl::string_view input(reinterpret_cast<const char*>(bytes), size);
  const auto tokenizer = whalepod::Tokenizer::FromText(whalepod::Patched(input));
  if (!tokenizer.ok()) return 0;
  whalepod::CheckText(*tokenizer, "the thin 123 <eos>\u00e9e\u0301\u4f60\n\n</think>");
  whalepod::CheckText(*tokenizer, std::string(input));
  return 0;
}
