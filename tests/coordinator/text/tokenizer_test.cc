#include "coordinator/text/tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <thread>

#include "coordinator/text/detokenizer.h"
#include "tests/coordinator/text/test_tokenizer.h"

namespace whalepod {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using Json = nlohmann::json;

std::shared_ptr<const Tokenizer> Make(const Json& json) {
  const auto tokenizer = Tokenizer::FromText(json.dump());
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
  return tokenizer.ok() ? *tokenizer : nullptr;
}

TEST(TokenizerTest, MergesByRankAndFindsAddedTokens) {
  const auto tokenizer = Make(TestTokenizerJson());
  EXPECT_THAT(*tokenizer->Encode("the th"), ElementsAre(257, ' ', 256));
  EXPECT_THAT(*tokenizer->Encode("a<eos>the<think"),
              ElementsAre('a', 258, 257, '<', 256, 'i', 'n', 'k'));
  EXPECT_THAT(*tokenizer->Encode(""), ElementsAre());
  EXPECT_EQ(tokenizer->id_limit(), 261u);
  EXPECT_EQ(tokenizer->AddedToken("<think>"), 259u);
  EXPECT_EQ(tokenizer->AddedToken("the"), std::nullopt);
}

TEST(TokenizerTest, LongPiecesEqualShortOnes) {
  // 13 characters of the heap's path against the scan's, and no more time than linear for a
  // megabyte.
  const auto tokenizer = Make(TestTokenizerJson());
  std::string text;
  std::vector<uint32_t> expected;
  for (int i = 0; i < 300000; ++i) {
    text += i % 3 == 0 ? "tth" : "the";
    if (i % 3 == 0) expected.push_back('t');
    expected.push_back(i % 3 == 0 ? 256 : 257);
  }
  EXPECT_EQ(*tokenizer->Encode(text), expected);
}

TEST(TokenizerTest, PartsKeepTextText) {
  const auto tokenizer = Make(TestTokenizerJson());
  using Kind = PromptPart::Kind;
  const std::vector<PromptPart> parts = {{Kind::kControl, "<think>"},
                                         {Kind::kText, "t"},
                                         {Kind::kText, "he<eos>"},
                                         {Kind::kControl, "<eos>"},
                                         {Kind::kControl, "<none>"}};
  EXPECT_THAT(*tokenizer->EncodeParts(parts),
              ElementsAre(259, 257, '<', 'e', 'o', 's', '>', 258, '<', 'n', 'o', 'n', 'e', '>'));
}

TEST(TokenizerTest, IgnoreMergesTakesWholePieces) {
  Json json = TestTokenizerJson();
  json["model"]["vocab"]["xy"] = 261;  // no merge makes it
  EXPECT_THAT(*Make(json)->Encode("xy xyz"), ElementsAre('x', 'y', ' ', 'x', 'y', 'z'));
  json["model"]["ignore_merges"] = true;
  EXPECT_THAT(*Make(json)->Encode("xy xyz"), ElementsAre(261, ' ', 'x', 'y', 'z'));
}

TEST(TokenizerTest, NormalizedTokensAreFoundAfterNormalization) {
  Json json = TestTokenizerJson();
  json["normalizer"] = {{"type", "NFC"}};
  json["added_tokens"].push_back({{"id", 261}, {"content", "e\u0301"}, {"normalized", true}});
  json["added_tokens"].push_back({{"id", 262}, {"content", "o\u0301"}, {"normalized", false}});
  const auto tokenizer = Make(json);
  EXPECT_THAT(*tokenizer->Encode("\u00e9e\u0301"), ElementsAre(261, 261));
  EXPECT_THAT(*tokenizer->Encode("o\u0301"), ElementsAre(262));
  EXPECT_THAT(*tokenizer->Encode("\u00f3"), ElementsAre(0xC3, 0xB3))
      << "not looked for in this form";
}

TEST(TokenizerTest, BosFromConfig) {
  TokenizerConfig config;
  EXPECT_EQ((*Tokenizer::FromText(TestTokenizerJson().dump(), config))
                ->Encode("the", AddBos::kYes)
                .status()
                .code(),
            absl::StatusCode::kInvalidArgument);
  config.bos_token = "<eos>";
  const auto tokenizer = Tokenizer::FromText(TestTokenizerJson().dump(), config);
  EXPECT_THAT(*(*tokenizer)->Encode("the", AddBos::kYes), ElementsAre(258, 257));
  config.eos_token = "<other>";
  EXPECT_THAT(Tokenizer::FromText(TestTokenizerJson().dump(), config).status().ToString(),
              HasSubstr("eos_token \"<other>\" is not one of added_tokens"));
}

TEST(TokenizerTest, InvalidUtf8IsRefusedWithItsPlace) {
  const auto tokenizer = Make(TestTokenizerJson());
  for (const std::string bad : {"ab\xFFz", "ab\xC3", "ab\xED\xA0\x80", "ab\xC0\x80"}) {
    const absl::Status status = tokenizer->Encode(bad).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(status.ToString(), HasSubstr("at byte 2"));
    EXPECT_FALSE(tokenizer->EncodeParts({{PromptPart::Kind::kText, bad}}).ok());
  }
}

TEST(TokenizerTest, DecodesSpecialPaddingAndInvalidBytes) {
  const auto tokenizer = Make(TestTokenizerJson());
  const std::vector<uint32_t> ids = {257, 258, 900, ~0u, 0xE4, 0xBD, 259, 0xC3};
  const std::string bad = "\xEF\xBF\xBD";
  EXPECT_EQ(tokenizer->Decode(ids, SpecialTokens::kKeep), "the<eos>" + bad + "<think>" + bad);
  EXPECT_EQ(tokenizer->Decode(ids, SpecialTokens::kSkip), "the" + bad + "<think>" + bad);
  Detokenizer detokenizer(tokenizer, SpecialTokens::kSkip);
  std::string shown;
  for (const uint32_t id : {0xE4u, 0xBDu, 900u}) detokenizer.Add(id, shown);
  EXPECT_EQ(shown, "") << "half a character";
  detokenizer.Add(0xA0, shown);
  EXPECT_EQ(shown, "\u4f60");
  detokenizer.Finish(shown);
  EXPECT_EQ(shown, "\u4f60");
}

TEST(TokenizerTest, SharedByThreads) {
  const auto tokenizer = Make(TestTokenizerJson());
  const std::vector<uint32_t> expected = *tokenizer->Encode("the thin the<eos>");
  std::vector<std::thread> threads;
  std::atomic<int> equal = 0;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      for (int j = 0; j < 50; ++j) equal += *tokenizer->Encode("the thin the<eos>") == expected;
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(equal, 200);
}

struct BadFile {
  const char* name;
  std::function<void(Json&)> breaking;
  const char* message;
};

TEST(TokenizerTest, BrokenFilesAreRefusedByName) {
  const BadFile cases[] = {
      {"duplicate id", [](Json& j) { j["model"]["vocab"]["x2"] = 5; }, "the id 5 of"},
      {"negative id", [](Json& j) { j["model"]["vocab"]["x2"] = -1; }, "found -1"},
      {"huge id", [](Json& j) { j["model"]["vocab"]["x2"] = 1e18; }, "model.vocab: expected an id"},
      {"huge integer", [](Json& j) { j["model"]["vocab"]["x2"] = 1ull << 63; }, "an id from 0"},
      {"text id", [](Json& j) { j["model"]["vocab"]["x2"] = "1"; }, "found \"1\""},
      {"missing byte", [](Json& j) { j["model"]["vocab"].erase("A"); }, "the byte 0x41"},
      {"unknown merge", [](Json& j) { j["model"]["merges"].push_back("t q"); }, "\"tq\" is not in"},
      {"merge of three", [](Json& j) { j["model"]["merges"].push_back("a b c"); }, "merges[2]"},
      {"merge of a number", [](Json& j) { j["model"]["merges"].push_back(3); }, "two tokens"},
      {"added id taken", [](Json& j) { j["added_tokens"][0]["id"] = 7; }, "the id 7 of \"<eos>\""},
      {"added twice", [](Json& j) { j["added_tokens"][1]["content"] = "<eos>"; }, "twice"},
      {"added without id", [](Json& j) { j["added_tokens"][1].erase("id"); }, "added_tokens[1].id"},
      {"added otherwise", [](Json& j) { j["added_tokens"][1]["content"] = "the"; },
       "in model.vocab 257"},
      {"lstrip", [](Json& j) { j["added_tokens"][1]["lstrip"] = true; }, "lstrip: true is not"},
      {"model type", [](Json& j) { j["model"]["type"] = "Unigram"; },
       "\"Unigram\" is not supported"},
      {"fallback", [](Json& j) { j["model"]["byte_fallback"] = true; }, "byte_fallback"},
      {"dropout", [](Json& j) { j["model"]["dropout"] = 0.1; }, "model.dropout"},
      {"prefix", [](Json& j) { j["model"]["continuing_subword_prefix"] = "##"; }, "subword_prefix"},
      {"normalizer",
       [](Json& j) {
         j["normalizer"] = {{"type", "NFKC"}};
       },
       "\"NFKC\""},
      {"decoder",
       [](Json& j) {
         j["decoder"] = {{"type", "Metaspace"}};
       },
       "\"Metaspace\""},
      {"post",
       [](Json& j) {
         j["post_processor"] = {{"type", "Bert"}};
       },
       "\"Bert\""},
      {"pre",
       [](Json& j) {
         j["pre_tokenizer"] = {{"type", "Digits"}};
       },
       "\"Digits\""},
      {"no byte level", [](Json& j) { j["pre_tokenizer"]["pretokenizers"].erase(1); }, "ByteLevel"},
      {"behavior", [](Json& j) { j["pre_tokenizer"]["pretokenizers"][0]["behavior"] = "Removed"; },
       "pretokenizers[0].behavior: expected \"Isolated\", found \"Removed\""},
      {"regex", [](Json& j) { j["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = "(a"; },
       "pretokenizers[0]: the regular expression (a: missing closing parenthesis"},
      {"no model", [](Json& j) { j.erase("model"); }, "model: expected an object, found nothing"},
  };
  for (const BadFile& bad : cases) {
    Json json = TestTokenizerJson();
    bad.breaking(json);
    const absl::Status status = Tokenizer::FromText(json.dump()).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << bad.name;
    EXPECT_THAT(std::string(status.message()), HasSubstr(bad.message)) << bad.name;
  }
  for (const char* text : {"", "[]", "{", "{\"model\":1,\"model\":2}", "{\"a\":\"\xFF\"}"}) {
    EXPECT_EQ(Tokenizer::FromText(text).status().code(), absl::StatusCode::kInvalidArgument)
        << text;
  }
  EXPECT_EQ(Tokenizer::FromFolder("/nowhere").status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(Tokenizer::FromFolder("/nowhere").status().ToString(),
              HasSubstr("/nowhere/tokenizer.json"));
}

TEST(TokenizerConfigTest, TokensAsStringsOrObjects) {
  const auto config = ParseTokenizerConfig(
      R"({"bos_token":"<b>","eos_token":{"content":"<e>","lstrip":false},"pad_token":null,
          "add_bos_token":true,"chat_template":[{"name":"tool","template":"x"},
                                                {"name":"default","template":"y"}]})");
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->bos_token, "<b>");
  EXPECT_EQ(config->eos_token, "<e>");
  EXPECT_EQ(config->pad_token, std::nullopt);
  EXPECT_TRUE(config->add_bos_token);
  EXPECT_EQ(config->chat_template, "y");
  for (const char* text : {R"({"bos_token":3})", R"({"eos_token":{}})", R"({"add_bos_token":1})",
                           R"({"chat_template":[]})", R"({"chat_template":{}})"}) {
    EXPECT_FALSE(ParseTokenizerConfig(text).ok()) << text;
  }
}

}  // namespace
}  // namespace whalepod
