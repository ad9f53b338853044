#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_split.h"
#include "coordinator/api/errors.h"
#include "coordinator/api/openai_request.h"
#include "coordinator/api/openai_response.h"

namespace whalepod {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using Json = nlohmann::json;

OpenAiRequest Chat(const std::string& more) {
  const auto request =
      ParseChatCompletion(R"({"messages":[{"role":"user","content":"hi"}])" + more + "}");
  EXPECT_TRUE(request.ok()) << request.status();
  return request.ok() ? *request : OpenAiRequest();
}

std::string BadParam(const std::string& more) {
  const auto request =
      ParseChatCompletion(R"({"messages":[{"role":"user","content":"hi"}])" + more + "}");
  if (request.ok()) return "accepted";
  EXPECT_EQ(request.status().code(), absl::StatusCode::kInvalidArgument);
  const auto detail = DetailOf(request.status());
  return detail ? detail->field() : "no detail";
}

TEST(OpenAiRequest, MessagesTakeTextAndParts) {
  const auto request = ParseChatCompletion(R"({"messages":[
      {"role":"developer","content":[{"type":"text","text":"be "},{"type":"text","text":"brief"}]},
      {"role":"user","content":"hi","name":"ann"},
      {"role":"assistant","content":null,"tool_calls":[
        {"id":"1","type":"function","function":{"name":"f","arguments":"{}"}}]},
      {"role":"tool","content":"3","tool_call_id":"1"}]})");
  ASSERT_TRUE(request.ok()) << request.status();
  const auto& messages = request->generate.chat().messages();
  ASSERT_EQ(messages.size(), 4);
  EXPECT_EQ(messages[0].role(), "system");
  EXPECT_EQ(messages[0].content(), "be brief");
  EXPECT_FALSE(messages[2].has_content());
  EXPECT_EQ(messages[2].tool_calls(0).name(), "f");
  EXPECT_EQ(messages[3].role(), "tool");
}

TEST(OpenAiRequest, OptionsAreThoseOfGenerate) {
  const OpenAiRequest request = Chat(R"(,"temperature":0.5,"top_k":-1,"top_p":0.9,"min_p":0.1,
      "seed":-1,"n":2,"stop":["a","b"],"max_tokens":5,"max_completion_tokens":7,"min_tokens":2,
      "logit_bias":{"5":-1.5},"ignore_eos":true,"stop_token_ids":[3],"repetition_penalty":1.1,
      "presence_penalty":null,"logprobs":true,"top_logprobs":4,"user":"x","model":"m",
      "stream":true,"stream_options":{"include_usage":true})");
  const v1::GenerationOptions& options = request.generate.options();
  EXPECT_EQ(options.temperature(), 0.5f);
  EXPECT_EQ(options.top_k(), 0u);
  EXPECT_EQ(options.seed(), UINT64_MAX);
  EXPECT_EQ(options.n(), 2u);
  EXPECT_THAT(options.stop(), ElementsAre("a", "b"));
  EXPECT_EQ(options.max_tokens(), 7u);  // the newer name
  EXPECT_EQ(options.min_tokens(), 2u);
  EXPECT_EQ(options.logit_bias().at(5), -1.5f);
  EXPECT_TRUE(options.ignore_eos());
  EXPECT_THAT(options.stop_token_ids(), ElementsAre(3u));
  EXPECT_FALSE(options.has_presence_penalty());
  EXPECT_EQ(options.logprobs(), 4u);
  EXPECT_TRUE(request.stream && request.include_usage && request.logprobs);
  EXPECT_EQ(request.generate.model(), "m");
  EXPECT_FALSE(Chat("").generate.options().has_max_tokens());
}

TEST(OpenAiRequest, PromptsAreTextsOrTheirIds) {
  EXPECT_EQ(ParseCompletion(R"({"prompt":"a"})")->generate.text(), "a");
  EXPECT_EQ(ParseCompletion(R"({"prompt":["a"]})")->generate.text(), "a");
  EXPECT_THAT(ParseCompletion(R"({"prompt":[1,2]})")->generate.token_ids().ids(),
              ElementsAre(1u, 2u));
  EXPECT_THAT(ParseCompletion(R"({"prompt":[[1,2]]})")->generate.token_ids().ids(),
              ElementsAre(1u, 2u));
  EXPECT_EQ(ParseCompletion(R"({"prompt":"a"})")->generate.options().max_tokens(), 16u);
  const OpenAiRequest several =
      ParseCompletion(R"({"prompt":["a",[1,2],"c"],"max_tokens":9,"echo":true,"logprobs":2})")
          .value();
  ASSERT_EQ(several.more.size(), 2u);
  EXPECT_EQ(several.generate.text(), "a");
  EXPECT_THAT(several.more[0].token_ids().ids(), ElementsAre(1u, 2u));
  EXPECT_EQ(several.more[1].text(), "c");
  for (const v1::GenerateRequest& more : several.more) {
    EXPECT_EQ(more.options().SerializeAsString(), several.generate.options().SerializeAsString());
  }
  std::string many = "\"a\"";
  for (int i = 1; i < 257; ++i) many += ",\"a\"";
  const std::string too_many = "{\"prompt\":[" + many + "]}";
  for (const char* bad :
       {R"({})", R"({"prompt":["a",1]})", R"({"prompt":["a",[]]})", R"({"prompt":[]})",
        R"({"prompt":[1,"a"]})", R"({"prompt":[-1]})", R"({"prompt":{"a":1}})",
        R"({"prompt":[1.5]})", R"({"prompt":["a",["b"]]})", too_many.c_str()}) {
    const auto request = ParseCompletion(bad);
    ASSERT_FALSE(request.ok()) << bad;
    EXPECT_EQ(DetailOf(request.status())->field(), "prompt") << bad;
  }
}

TEST(OpenAiRequest, ErrorsNameTheField) {
  EXPECT_EQ(BadParam(R"(,"temperature":"hot")"), "temperature");
  EXPECT_EQ(BadParam(R"(,"max_tokens":-1)"), "max_tokens");
  EXPECT_EQ(BadParam(R"(,"max_tokens":1.5)"), "max_tokens");
  EXPECT_EQ(BadParam(R"(,"max_tokens":1e300)"), "max_tokens");
  EXPECT_EQ(BadParam(R"(,"stop":5)"), "stop");
  EXPECT_EQ(BadParam(R"(,"logit_bias":{"x":1})"), "logit_bias");
  EXPECT_EQ(BadParam(R"(,"logit_bias":[1])"), "logit_bias");
  EXPECT_EQ(BadParam(R"(,"stream":"yes")"), "stream");
  EXPECT_EQ(BadParam(R"(,"stream_options":{"include_usage":true})"), "stream_options");
  EXPECT_EQ(BadParam(R"(,"top_logprobs":2)"), "top_logprobs");
  EXPECT_EQ(BadParam(R"(,"tools":[{}])"), "tools");
  EXPECT_EQ(BadParam(R"(,"response_format":{"type":"json_object"})"), "response_format");
  EXPECT_EQ(BadParam(R"(,"priority":"high")"), "priority");
  EXPECT_EQ(BadParam(R"(,"thinking_token_budget":-1)"), "thinking_token_budget");
  EXPECT_EQ(BadParam(R"(,"timeout_ms":1.5)"), "timeout_ms");
  // What asks for nothing is taken.
  EXPECT_EQ(BadParam(R"(,"tools":[],"tool_choice":"none","response_format":{"type":"text"},
                        "priority":0,"echo":false,"best_of":1,"max_tokens":4.0)"),
            "accepted");
  for (const char* bad : {"", "{", "[]", "1", R"({"messages":1})", R"({"messages":[1]})",
                          R"({"messages":[{}]})", R"({"messages":[{"role":"user","content":3}]})",
                          R"({"messages":[{"role":"user","content":[{"type":"image_url"}]}]})",
                          R"({"messages":[{"role":"user","tool_calls":[{}]}]})"}) {
    EXPECT_FALSE(ParseChatCompletion(bad).ok()) << bad;
  }
}

TEST(OpenAiResponse, ErrorsAreOpenAis) {
  const HttpError bad = ToHttpError(BadField("options.n", "OUT_OF_RANGE", "0", "in [1, 64]"));
  EXPECT_EQ(bad.status, 400);
  const Json error = Json::parse(bad.body)["error"];
  EXPECT_EQ(error["param"], "n");
  EXPECT_EQ(error["code"], "out_of_range");
  EXPECT_EQ(error["type"], "invalid_request_error");
  const HttpError full =
      ToHttpError(WithRetryDelay(absl::ResourceExhaustedError("full"), "QUEUE_FULL", 1500));
  EXPECT_EQ(full.status, 429);
  EXPECT_EQ(full.retry_after_ms, 1500u);
  EXPECT_EQ(ToHttpError(absl::UnavailableError("x")).status, 503);
  EXPECT_EQ(ToHttpError(absl::InternalError("x")).status, 500);
}

v1::GenerateResponse Tokens(uint32_t choice, v1::SpanKind kind, const std::string& text) {
  v1::GenerateResponse message;
  message.mutable_tokens()->set_choice(choice);
  message.mutable_tokens()->add_tokens()->set_token_id(7);
  v1::TextSpan* span = message.mutable_tokens()->add_spans();
  span->set_kind(kind);
  span->set_text(text);
  return message;
}

v1::GenerateResponse Finished(uint32_t choice) {
  v1::GenerateResponse message;
  message.mutable_finished()->set_choice(choice);
  message.mutable_finished()->set_reason(v1::FINISH_REASON_STOP);
  v1::Usage* usage = message.mutable_finished()->mutable_usage();
  usage->set_prompt_tokens(3);
  usage->set_cached_tokens(1 + choice);
  usage->set_reasoning_tokens(2);
  usage->set_cost_dollars(0.25 + choice);
  return message;
}

TEST(OpenAiResponse, ChoicesAreKeptApart) {
  OpenAiRequest request;
  OpenAiResponse whole(request, 2, nullptr, 11);
  v1::GenerateResponse started;
  started.mutable_started()->set_request_id("r");
  started.mutable_started()->set_model("m");
  whole.Gather(started);
  for (uint32_t choice : {1u, 0u, 1u}) {
    whole.Gather(Tokens(choice, v1::SPAN_KIND_ANSWER, choice == 1 ? "b" : "a"));
  }
  whole.Gather(Finished(1));
  whole.Gather(Finished(0));
  whole.Gather(Tokens(9, v1::SPAN_KIND_ANSWER, "of none"));
  const Json json = Json::parse(whole.Whole());
  EXPECT_EQ(json["id"], "chatcmpl-r");
  EXPECT_EQ(json["created"], 11);
  EXPECT_EQ(json["choices"][0]["message"]["content"], "a");
  EXPECT_EQ(json["choices"][1]["message"]["content"], "bb");
  EXPECT_EQ(json["usage"]["completion_tokens"], 3);
  EXPECT_EQ(json["usage"]["prompt_tokens"], 3);
  // That of choice 0: the other finds what that one computed.
  EXPECT_EQ(json["usage"]["prompt_tokens_details"]["cached_tokens"], 1);
  EXPECT_EQ(json["usage"]["completion_tokens_details"]["reasoning_tokens"], 4);
  EXPECT_EQ(json["usage"]["cost_dollars"], 1.5);
}

// Two prompts of two answers each: four choices, and both prompts in the usage.
TEST(OpenAiResponse, PromptsFollowEachOther) {
  const OpenAiRequest request =
      ParseCompletion(R"({"prompt":["One","Two"],"echo":true,"n":2})").value();
  OpenAiResponse whole(request, 2, nullptr, 0), streamed(request, 2, nullptr, 0);
  std::vector<std::string> texts(4);
  for (const uint32_t prompt : {1u, 0u}) {
    v1::GenerateResponse started;
    started.mutable_started()->set_request_id(absl::StrCat("r", prompt));
    for (const v1::GenerateResponse& message :
         {started, Tokens(0, v1::SPAN_KIND_ANSWER, absl::StrCat(" a", prompt)),
          Tokens(1, v1::SPAN_KIND_ANSWER, absl::StrCat(" b", prompt)), Finished(0), Finished(1)}) {
      whole.Gather(message, prompt);
      for (const absl::string_view line :
           absl::StrSplit(streamed.Events(message, prompt), "\n\n", absl::SkipEmpty())) {
        const Json chunk = Json::parse(line.substr(sizeof("data: ") - 1));
        EXPECT_EQ(chunk["id"], "cmpl-r1") << "that of the prompt which began first";
        const Json choice = chunk["choices"][0];
        texts[choice["index"].get<size_t>()] += choice["text"].get<std::string>();
      }
    }
  }
  const Json json = Json::parse(whole.Whole());
  EXPECT_THAT(texts, ElementsAre("One a0", "One b0", "Two a1", "Two b1"));
  ASSERT_EQ(json["choices"].size(), 4u);
  for (size_t i = 0; i < 4; ++i) {
    EXPECT_EQ(json["choices"][i]["index"], i);
    EXPECT_EQ(json["choices"][i]["text"], texts[i]);
  }
  EXPECT_EQ(json["usage"]["prompt_tokens"], 6);
  EXPECT_EQ(json["usage"]["completion_tokens"], 4);
  EXPECT_EQ(json["usage"]["cost_dollars"], 3.0);
}

// The prompt's tokens come first, of which the first has no logprob.
TEST(OpenAiResponse, EchoBeginsEveryChoice) {
  OpenAiRequest request =
      ParseCompletion(R"({"prompt":"Say","echo":true,"logprobs":0,"n":2})").value();
  EXPECT_TRUE(request.generate.options().has_prompt_logprobs());
  v1::GenerateResponse prompt;
  prompt.mutable_prompt()->add_tokens()->set_token_id(5);
  prompt.mutable_prompt()->add_tokens()->set_token_id(6);
  prompt.mutable_prompt()->mutable_tokens(1)->set_logprob(-2);
  OpenAiResponse whole(request, 2, nullptr, 0), streamed(request, 2, nullptr, 0);
  std::vector<std::string> texts(2);
  std::vector<Json> logprobs(2, Json::array());
  for (const v1::GenerateResponse& message :
       {prompt, Tokens(1, v1::SPAN_KIND_ANSWER, " b"), Tokens(0, v1::SPAN_KIND_ANSWER, " a"),
        Finished(0), Finished(1)}) {
    whole.Gather(message);
    for (const absl::string_view line : absl::StrSplit(streamed.Events(message), "\n\n")) {
      if (line.empty()) continue;
      const Json choice = Json::parse(line.substr(sizeof("data: ") - 1))["choices"][0];
      const size_t index = choice["index"];
      texts[index] += choice["text"].get<std::string>();
      if (choice["logprobs"].is_null()) continue;
      for (const Json& value : choice["logprobs"]["token_logprobs"]) {
        logprobs[index].push_back(value);
      }
    }
  }
  const Json json = Json::parse(whole.Whole());
  for (size_t i = 0; i < 2; ++i) {
    EXPECT_EQ(json["choices"][i]["text"], i == 0 ? "Say a" : "Say b");
    EXPECT_EQ(json["choices"][i]["logprobs"]["token_logprobs"], Json({nullptr, -2.0, nullptr}));
    EXPECT_EQ(texts[i], i == 0 ? "Say a" : "Say b");
    EXPECT_EQ(logprobs[i], Json({nullptr, -2.0, nullptr}));
  }
}

TEST(OpenAiResponse, ACompletionsTextHasTheTags) {
  for (const bool open : {false, true}) {
    OpenAiRequest request;
    request.chat = false;
    OpenAiResponse response(request, 1, nullptr, 0);
    v1::GenerateResponse started;
    started.mutable_started()->set_reasoning_open(open);
    response.Gather(started);
    response.Gather(Tokens(0, v1::SPAN_KIND_REASONING, "why"));
    response.Gather(Tokens(0, v1::SPAN_KIND_REASONING, "."));
    response.Gather(Tokens(0, v1::SPAN_KIND_ANSWER, "so"));
    response.Gather(Finished(0));
    EXPECT_EQ(Json::parse(response.Whole())["choices"][0]["text"],
              std::string(open ? "" : "<think>") + "why.</think>so");
  }
}

TEST(OpenAiResponse, EventsAreLinesOfJson) {
  OpenAiRequest request;
  request.include_usage = true;
  OpenAiResponse response(request, 1, nullptr, 0);
  const std::string first = response.Events(Tokens(0, v1::SPAN_KIND_REASONING, "a\nb \xff"));
  EXPECT_THAT(first, HasSubstr(R"("delta":{"role":"assistant","content":""})"));
  EXPECT_THAT(first, HasSubstr(R"("reasoning":"a\nb )"));
  size_t lines = 0;
  for (size_t at = 0; (at = first.find("\n\n", at)) != std::string::npos; at += 2) ++lines;
  EXPECT_EQ(lines, 2u);
  EXPECT_EQ(std::count(first.begin(), first.end(), '\n'), 4);
  EXPECT_THAT(response.Events(Finished(0)), HasSubstr(R"("finish_reason":"stop")"));
  EXPECT_THAT(response.LastEvents(), testing::EndsWith("}\n\ndata: [DONE]\n\n"));
}

}  // namespace
}  // namespace whalepod
