#include "coordinator/cli/bench/openai_stream.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"

namespace whalepod {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr const char* kStream =
    ": keep-alive\n\n"
    "data: {\"choices\":[{\"text\":\"\"}],\"usage\":null}\n\n"
    "event: x\r\ndata: {\"choices\":[{\"text\":\"b\"}]}\r\n\r\n"
    "data:{\"choices\":\ndata: [{\"text\":\"c\"}]}\n\n"
    "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":7,\"completion_tokens\":5}}\n\n"
    "data: [DONE]\n\n";

LoadRecord Read(const std::string& text) {
  LoadRecord record;
  OpenAiStream stream(&record);
  stream.Feed(text, 1);
  stream.End();
  return record;
}

TEST(OpenAiStreamTest, EventsWithChoicesAreChunks) {
  const LoadRecord record = Read(kStream);
  EXPECT_TRUE(record.completed()) << record.failure << record.message;
  EXPECT_EQ(record.chunks.size(), 3u);
  EXPECT_EQ(record.input_tokens, 7);
  EXPECT_EQ(record.output_tokens, 5);
  EXPECT_TRUE(record.counted_by_server);
}

TEST(OpenAiStreamTest, AnyPiecesAreTheSameStream) {
  const std::string text = kStream;
  for (size_t size = 1; size < text.size(); ++size) {
    LoadRecord record;
    OpenAiStream stream(&record);
    for (size_t at = 0; at < text.size(); at += size) {
      stream.Feed(absl::string_view(text).substr(at, size), static_cast<double>(at));
    }
    EXPECT_TRUE(stream.done());
    stream.End();
    ASSERT_TRUE(record.completed()) << record.failure << record.message;
    ASSERT_EQ(record.chunks.size(), 3u);
    ASSERT_EQ(record.output_tokens, 5);
  }
}

TEST(OpenAiStreamTest, TimesAreThoseOfTheEventsEnd) {
  LoadRecord record;
  OpenAiStream stream(&record);
  stream.Feed("data: {\"choices\":[{}]}\n", 1);
  stream.Feed("\ndata: {\"choices\":[{}]}\n\ndata: {\"choi", 2);
  stream.Feed("ces\":[{}]}\n\n", 3);
  EXPECT_THAT(record.chunks, ElementsAre(2, 2, 3));
}

TEST(OpenAiStreamTest, WithoutUsageChunksCount) {
  const LoadRecord record = Read("data: {\"choices\":[{}]}\n\ndata: [DONE]\n\n");
  EXPECT_TRUE(record.completed());
  EXPECT_EQ(record.output_tokens, 1);
  EXPECT_FALSE(record.counted_by_server);
}

TEST(OpenAiStreamTest, WhatIsWrongFailsByName) {
  const auto failure = [](const std::string& text) {
    const LoadRecord record = Read(text);
    return record.failure + ": " + record.message;
  };
  EXPECT_THAT(failure("data: {\"choices\":[{}]}\n\n"), HasSubstr("UNAVAILABLE: the stream ended"));
  EXPECT_THAT(failure(""), HasSubstr("UNAVAILABLE"));
  EXPECT_THAT(failure("data: [DONE]\n\n"), HasSubstr("no token"));
  EXPECT_THAT(failure("data: {\"choices\n\n"), HasSubstr("bad event"));
  EXPECT_THAT(failure("data: [1]\n\n"), HasSubstr("bad event: not a JSON object: \"[1]\""));
  EXPECT_EQ(failure("data: {\"choices\":[{}]}\n\n"
                    "data: {\"error\":{\"message\":\"too late\",\"type\":\"timeout\"}}\n\n"),
            "error event timeout: too late");
  EXPECT_THAT(failure("data: {\"error\":\"broken\"}\n\n"), HasSubstr("error event: \"broken\""));
}

nlohmann::json BodyOf(const v1::GenerateRequest& request, const char* path) {
  const StreamedCall made = MakeStreamedCall(request, "whale");
  EXPECT_EQ(made.path, path);
  return nlohmann::json::parse(made.body);
}

TEST(StreamedCallTest, PromptsGoWhereTheyBelong) {
  v1::GenerateRequest ids;
  for (const uint32_t id : {3u, 1u}) ids.mutable_token_ids()->add_ids(id);
  ids.mutable_options()->set_max_tokens(9);
  ids.mutable_options()->set_temperature(0);
  ids.mutable_options()->set_ignore_eos(true);
  ids.mutable_options()->set_seed(4);
  nlohmann::json body = BodyOf(ids, "/v1/completions");
  EXPECT_EQ(body["prompt"], (nlohmann::json{3, 1}));
  EXPECT_EQ(body["model"], "whale");
  EXPECT_EQ(body["max_tokens"], 9);
  EXPECT_EQ(body["temperature"], 0);
  EXPECT_EQ(body["ignore_eos"], true);
  EXPECT_EQ(body["seed"], 4);
  EXPECT_EQ(body["stream"], true);
  EXPECT_EQ(body["stream_options"]["include_usage"], true);

  v1::GenerateRequest text;
  text.set_text("a \"b\"");
  EXPECT_EQ(BodyOf(text, "/v1/completions")["prompt"], "a \"b\"");
  EXPECT_FALSE(BodyOf(text, "/v1/completions").contains("max_tokens"));

  v1::GenerateRequest chat;
  v1::ChatMessage* message = chat.mutable_chat()->add_messages();
  message->set_role("assistant");
  message->add_tool_calls()->set_name("f");
  body = BodyOf(chat, "/v1/chat/completions");
  EXPECT_EQ(body["messages"][0]["role"], "assistant");
  EXPECT_EQ(body["messages"][0]["tool_calls"][0]["function"]["name"], "f");
  EXPECT_FALSE(body["messages"][0].contains("content"));
}

}  // namespace
}  // namespace whalepod
