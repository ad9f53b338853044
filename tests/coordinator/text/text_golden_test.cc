// The coordinator's text code against Hugging Face's tokenizers and transformers on 20,000 strings
// and 500 conversations for each tokenizer. Goldens: tests/golden/text, by make_text_goldens.py.
#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "coordinator/text/chat_template.h"
#include "coordinator/text/detokenizer.h"
#include "coordinator/text/normalizer.h"
#include "coordinator/text/tokenizer.h"
#include "tests/coordinator/text/text_strings.h"

namespace whalepod {
namespace {

// A folder with the tokenizer: in the repository, or beside it.
struct Case {
  const char* name;
  const char* folder;
  bool nfc;
};

class TextGoldenTest : public ::testing::TestWithParam<Case> {
 protected:
  void SetUp() override {
    if (!std::filesystem::exists(std::string(GetParam().folder) + "/tokenizer.json")) {
      GTEST_SKIP() << "skipped, no reference data: " << GetParam().folder;
    }
    const auto tokenizer = Tokenizer::FromFolder(GetParam().folder);
    ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
    tokenizer_ = *tokenizer;
    std::ifstream in(std::string(WHALEPOD_GOLDEN_DIR "/") + GetParam().name + ".bin",
                     std::ios::binary);
    std::stringstream bytes;
    bytes << in.rdbuf();
    golden_.resize(bytes.str().size() / sizeof(uint32_t));
    ASSERT_GT(golden_.size(), 41000u - 20000u) << "no golden file";
    std::memcpy(golden_.data(), bytes.str().data(), golden_.size() * sizeof(uint32_t));
  }

  static uint32_t IdsCrc(const std::vector<uint32_t>& ids) {
    return Crc32({reinterpret_cast<const char*>(ids.data()), ids.size() * sizeof(uint32_t)});
  }

  std::string Stream(const std::vector<uint32_t>& ids) const {
    Detokenizer detokenizer(tokenizer_, SpecialTokens::kKeep);
    std::string text;
    for (const uint32_t id : ids) detokenizer.Add(id, text);
    detokenizer.Finish(text);
    return text;
  }

  std::shared_ptr<const Tokenizer> tokenizer_;
  std::vector<uint32_t> golden_;
};

TEST_P(TextGoldenTest, EncodesAndDecodes) {
  const uint32_t count = golden_[0];
  ASSERT_EQ(count, 20000u);
  uint32_t strings_crc = 0;
  int wrong = 0;
  for (uint32_t seed = 0; seed < count; ++seed) {
    const std::string text = MakeString(seed);
    strings_crc = Crc32(text, strings_crc);
    const absl::StatusOr<std::vector<uint32_t>> ids = tokenizer_->Encode(text);
    ASSERT_TRUE(ids.ok()) << ids.status();
    wrong += IdsCrc(*ids) != golden_[2 + seed];
    const std::string back = tokenizer_->Decode(*ids, SpecialTokens::kKeep);
    ASSERT_EQ(back, GetParam().nfc ? Nfc(text) : text) << "seed " << seed;
    ASSERT_EQ(Stream(*ids), back) << "seed " << seed;
  }
  EXPECT_EQ(strings_crc, golden_[1]) << "the strings are not those of text_strings.py";
  EXPECT_EQ(wrong, 0) << "of " << count << " strings";
}

TEST_P(TextGoldenTest, RendersChats) {
  const absl::StatusOr<ChatTemplate> chat = ChatTemplate::FromFolder(GetParam().folder);
  ASSERT_TRUE(chat.ok()) << chat.status();
  const uint32_t* golden = &golden_[2 + golden_[0]];
  const uint32_t count = *golden++;
  ASSERT_EQ(count, 500u);
  const bool tools = chat->rules().tool_calls != ChatRules::ToolCalls::kNone;
  int wrong_text = 0;
  int wrong_ids = 0;
  for (uint32_t seed = 0; seed < count; ++seed, golden += 2) {
    const auto prompt = chat->Render(MakeChat(seed, tools), seed % 3 != 0);
    ASSERT_TRUE(prompt.ok()) << prompt.status();
    wrong_text += Crc32(prompt->Text()) != golden[0];
    const auto ids = tokenizer_->EncodeParts(prompt->parts);
    ASSERT_TRUE(ids.ok()) << ids.status();
    wrong_ids += golden[1] != 0 && IdsCrc(*ids) != golden[1];
  }
  EXPECT_EQ(wrong_text, 0) << "of " << count << " conversations";
  EXPECT_EQ(wrong_ids, 0) << "of " << count << " conversations";
}

INSTANTIATE_TEST_SUITE_P(
    Tokenizers, TextGoldenTest,
    ::testing::Values(
        Case{"deepseek-r1", WHALEPOD_SHARED_DIR "/data/tokenizers/deepseek-r1", false},
        Case{"qwen2-distill", WHALEPOD_SHARED_DIR "/data/tokenizers/qwen2-distill", true},
        Case{"llama3-distill", WHALEPOD_SHARED_DIR "/data/tokenizers/llama3-distill", false},
        Case{"r1-draft", WHALEPOD_SOURCE_DIR "/deploy/models/r1-draft", false},
        Case{"r1-tiny", WHALEPOD_SOURCE_DIR "/deploy/models/r1-tiny", false}),
    [](const auto& info) {
      std::string name = info.param.name;
      std::replace(name.begin(), name.end(), '-', '_');
      return name;
    });

}  // namespace
}  // namespace whalepod
