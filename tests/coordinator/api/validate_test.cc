#include "coordinator/api/validate.h"

#include <cmath>
#include <functional>
#include <limits>

#include "coordinator/api/errors.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace whalepod {
namespace {

using ::testing::HasSubstr;

ServedModel Model() {
  ServedModel model;
  model.name = "r1-draft";
  model.vocab_size = 100;
  model.max_model_len = 50;
  model.kv_tokens = 1000;
  model.defaults.temperature = 0.6f;
  return model;
}

v1::GenerateRequest Request(int prompt_len = 3) {
  v1::GenerateRequest request;
  for (int i = 0; i < prompt_len; ++i) request.mutable_token_ids()->add_ids(i);
  return request;
}

// The detail as a client reads it.
v1::ErrorDetail Detail(const absl::Status& status) {
  v1::RpcStatus rpc;
  EXPECT_TRUE(rpc.ParseFromString(ToGrpcStatus(status).error_details()));
  EXPECT_EQ(rpc.code(), static_cast<int>(status.code()));
  v1::ErrorDetail detail;
  EXPECT_EQ(rpc.details_size(), 1);
  if (rpc.details_size() == 1) {
    EXPECT_TRUE(rpc.details(0).UnpackTo(&detail));
  }
  return detail;
}

void ExpectBad(const v1::GenerateRequest& request, const std::string& field,
               const std::string& value, const std::string& limit) {
  const absl::Status status = ValidateGenerate(Model(), request, TimePoint()).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << field;
  const v1::ErrorDetail detail = Detail(status);
  EXPECT_EQ(detail.field(), field);
  EXPECT_THAT(detail.value(), HasSubstr(value));
  EXPECT_THAT(detail.limit(), HasSubstr(limit));
  EXPECT_FALSE(detail.reason().empty());
  EXPECT_THAT(std::string(status.message()), HasSubstr(field));
}

// Logits over 1e-44 are infinite: all would tie.
TEST(Validate, AColdTemperatureIsGreedy) {
  for (const float cold : {1e-44f, 1e-38f, 9e-6f}) {
    v1::GenerateRequest request = Request();
    request.mutable_options()->set_temperature(cold);
    const auto checked = ValidateGenerate(Model(), request, TimePoint());
    ASSERT_TRUE(checked.ok()) << checked.status();
    EXPECT_EQ(checked->request.sampling.temperature(), 0.0f) << cold;
  }
}

TEST(Validate, FillsDefaults) {
  auto request = ValidateGenerate(Model(), Request(), TimePoint());
  ASSERT_TRUE(request.ok()) << request.status();
  EXPECT_EQ(request->request.prompt, (std::vector<uint32_t>{0, 1, 2}));
  EXPECT_FLOAT_EQ(request->request.sampling.temperature(), 0.6f);
  EXPECT_EQ(request->request.sampling.max_tokens(), 47u);
  EXPECT_EQ(request->request.sampling.logprobs(), -1);
  EXPECT_FALSE(request->request.sampling.ignore_eos());
  EXPECT_NE(request->request.sampling.seed(),
            ValidateGenerate(Model(), Request(), TimePoint())->request.sampling.seed());
}

TEST(Validate, KeepsWhatIsAsked) {
  v1::GenerateRequest request = Request();
  request.set_model("r1-draft");
  request.mutable_options()->set_temperature(0);
  request.mutable_options()->set_seed(0);
  request.mutable_options()->set_max_tokens(47);
  request.mutable_options()->set_logprobs(0);
  request.mutable_options()->set_ignore_eos(true);
  request.mutable_options()->add_stop_token_ids(99);
  auto checked = ValidateGenerate(Model(), request, TimePoint());
  ASSERT_TRUE(checked.ok()) << checked.status();
  EXPECT_EQ(checked->request.sampling.temperature(), 0.0f);
  EXPECT_EQ(checked->request.sampling.seed(), 0u);
  EXPECT_EQ(checked->request.sampling.max_tokens(), 47u);
  EXPECT_EQ(checked->request.sampling.logprobs(), 0);
  EXPECT_TRUE(checked->request.sampling.ignore_eos());
  EXPECT_EQ(checked->request.sampling.stop_token_ids(0), 99u);
}

TEST(Validate, FillsSamplingOptions) {
  ServedModel model = Model();
  model.defaults = {.temperature = 0.6f,
                    .top_k = 30,
                    .top_p = 0.95f,
                    .min_p = 0.1f,
                    .repetition_penalty = 1.05f,
                    .max_new_tokens = 20};
  model.eos_token_ids = {1, 2};
  auto usual = ValidateGenerate(model, Request(), TimePoint());
  ASSERT_TRUE(usual.ok()) << usual.status();
  const v1::SamplingParams& of_model = usual->request.sampling;
  EXPECT_EQ(of_model.top_k(), 30u);
  EXPECT_EQ(of_model.top_p(), 0.95f);
  EXPECT_EQ(of_model.min_p(), 0.1f);
  EXPECT_EQ(of_model.repetition_penalty(), 1.05f);
  EXPECT_EQ(of_model.max_tokens(), 20u);
  EXPECT_EQ(usual->n, 1u);
  EXPECT_FALSE(of_model.has_prompt_logprobs());

  v1::GenerateRequest request = Request();
  v1::GenerationOptions& options = *request.mutable_options();
  options.set_top_k(0);
  options.set_top_p(1);
  options.set_min_p(0);
  options.set_repetition_penalty(1);
  options.set_presence_penalty(-1);
  options.set_frequency_penalty(0.5f);
  (*options.mutable_logit_bias())[9] = 2;
  (*options.mutable_logit_bias())[4] = -100;
  options.set_max_tokens(40);
  options.set_min_tokens(40);
  options.add_stop_token_ids(7);
  options.set_n(64);
  options.set_prompt_logprobs(0);
  auto asked = ValidateGenerate(model, request, TimePoint());
  ASSERT_TRUE(asked.ok()) << asked.status();
  const v1::SamplingParams& sampling = asked->request.sampling;
  EXPECT_EQ(sampling.top_k() + sampling.top_p() + sampling.min_p(), 0);  // off
  EXPECT_EQ(sampling.repetition_penalty(), 0);
  EXPECT_EQ(sampling.presence_penalty(), -1);
  EXPECT_EQ(sampling.frequency_penalty(), 0.5f);
  ASSERT_EQ(sampling.logit_bias_size(), 2);
  EXPECT_EQ(sampling.logit_bias(0).token_id(), 4u);
  EXPECT_EQ(sampling.logit_bias(1).bias(), 2);
  EXPECT_EQ(sampling.min_tokens(), 40u);
  EXPECT_THAT(sampling.banned_token_ids(), ::testing::ElementsAre(7, 1, 2));
  EXPECT_EQ(asked->n, 64u);
  EXPECT_TRUE(sampling.has_prompt_logprobs());

  options.set_ignore_eos(true);  // then they may come
  EXPECT_THAT(ValidateGenerate(model, request, TimePoint())->request.sampling.banned_token_ids(),
              ::testing::ElementsAre(7));
}

TEST(Validate, NamesTheSamplingOption) {
  const auto bad = [](const char* field, const std::string& value, const std::string& limit,
                      const std::function<void(v1::GenerationOptions&)>& set) {
    v1::GenerateRequest request = Request();
    set(*request.mutable_options());
    ExpectBad(request, std::string("options.") + field, value, limit);
  };
  using Options = v1::GenerationOptions;
  const float nan = std::nanf("");
  for (const float x : {0.0f, -0.5f, 1.5f, nan}) {
    bad("top_p", "", "(0, 1]", [x](Options& o) { o.set_top_p(x); });
  }
  for (const float x : {-0.5f, 1.5f, nan}) {
    bad("min_p", "", "[0, 1]", [x](Options& o) { o.set_min_p(x); });
  }
  for (const float x : {0.0f, -1.0f, 101.0f, nan}) {
    bad("repetition_penalty", "", "[0.01, 100]", [x](Options& o) { o.set_repetition_penalty(x); });
  }
  for (const float x : {-2.5f, 2.5f, nan}) {
    bad("presence_penalty", "", "[-2, 2]", [x](Options& o) { o.set_presence_penalty(x); });
    bad("frequency_penalty", "", "[-2, 2]", [x](Options& o) { o.set_frequency_penalty(x); });
  }
  bad("logit_bias", "token 100", "less than 100",
      [](Options& o) { (*o.mutable_logit_bias())[100] = 1; });
  bad("logit_bias", "101", "[-100, 100]", [](Options& o) { (*o.mutable_logit_bias())[1] = 101; });
  bad("min_tokens", "11", "max_tokens = 10", [](Options& o) {
    o.set_max_tokens(10);
    o.set_min_tokens(11);
  });
  bad("n", "0", "[1, 64]", [](Options& o) { o.set_n(0); });
  bad("n", "65", "[1, 64]", [](Options& o) { o.set_n(65); });
  bad("n", "2", "1 at temperature 0", [](Options& o) {
    o.set_n(2);
    o.set_temperature(0);
  });
  bad("prompt_logprobs", "21", "at most 20", [](Options& o) { o.set_prompt_logprobs(21); });
}

TEST(Validate, NamesTheField) {
  ExpectBad(v1::GenerateRequest(), "prompt", "not set", "token_ids");
  v1::GenerateRequest empty;
  empty.mutable_token_ids();
  ExpectBad(empty, "prompt.token_ids", "empty", "at least 1");
  ExpectBad(Request(50), "prompt.token_ids", "50 tokens", "at most 49");
  v1::GenerateRequest request = Request();
  request.mutable_token_ids()->set_ids(1, 100);
  ExpectBad(request, "prompt.token_ids[1]", "100", "less than 100");

  for (const float bad : {-0.1f, 2.1f, std::nanf(""), std::numeric_limits<float>::infinity()}) {
    request = Request();
    request.mutable_options()->set_temperature(bad);
    ExpectBad(request, "options.temperature", "", "[0, 2]");
  }
  for (const uint32_t bad : {0u, 48u, 0xffffffffu}) {
    request = Request();
    request.mutable_options()->set_max_tokens(bad);
    ExpectBad(request, "options.max_tokens", std::to_string(bad), "[1, 47]");
  }
  request = Request();
  request.mutable_options()->set_logprobs(21);
  ExpectBad(request, "options.logprobs", "21", "at most 20");
  request = Request();
  request.mutable_options()->add_stop_token_ids(100);
  ExpectBad(request, "options.stop_token_ids[0]", "100", "less than 100");
  request = Request();
  for (int i = 0; i < 65; ++i) request.mutable_options()->add_stop_token_ids(1);
  ExpectBad(request, "options.stop_token_ids", "65", "at most 64");
  request = Request();
  request.set_request_id("a b");
  ExpectBad(request, "request_id", "a b", "visible ASCII");
  request.set_request_id(std::string(5000, 'x'));
  ExpectBad(request, "request_id", std::string(100, 'x'), "at most 128");
}

TEST(Validate, StopStrings) {
  v1::GenerateRequest request = Request();
  request.mutable_options()->add_stop("x");
  EXPECT_EQ(ValidateGenerate(Model(), request, TimePoint()).status().code(),
            absl::StatusCode::kFailedPrecondition);  // no tokenizer
  ServedModel model = Model();
  model.text = LoadModelText(WHALEPOD_MODELS_DIR "/r1-draft");
  EXPECT_EQ(ValidateGenerate(model, request, TimePoint())->stop, std::vector<std::string>{"x"});
  for (const std::string& bad : {std::string(), std::string(257, 'x')}) {
    request.mutable_options()->set_stop(0, bad);
    const absl::Status status = ValidateGenerate(model, request, TimePoint()).status();
    EXPECT_EQ(Detail(status).field(), "options.stop[0]");
  }
  request = Request();
  for (int i = 0; i < 17; ++i) request.mutable_options()->add_stop("x");
  EXPECT_EQ(Detail(ValidateGenerate(model, request, TimePoint()).status()).field(), "options.stop");
}

TEST(Validate, Scheduling) {
  v1::GenerateRequest request = Request();
  for (const int32_t bad : {-1001, 1001, std::numeric_limits<int32_t>::min()}) {
    request.set_priority(bad);
    ExpectBad(request, "priority", std::to_string(bad), "[-1000, 1000]");
  }
  request.set_priority(-1000);
  request.mutable_timeouts()->set_queue_ms(5);
  request.mutable_timeouts()->set_total_ms(70);
  const TimePoint arrival = TimePoint() + std::chrono::seconds(3);
  const SchedulerRequest checked = ValidateGenerate(Model(), request, arrival)->request;
  EXPECT_EQ(checked.priority, -1000);
  EXPECT_EQ(checked.arrival, arrival);
  EXPECT_EQ(checked.queue_deadline, arrival + std::chrono::milliseconds(5));
  EXPECT_EQ(checked.first_token_deadline, kNoDeadline);
  EXPECT_EQ(checked.deadline, arrival + std::chrono::milliseconds(70));
}

TEST(Validate, ThinkingBudget) {
  v1::GenerateRequest request = Request();
  request.mutable_options()->set_thinking_token_budget(7);
  const absl::Status status = ValidateGenerate(Model(), request, TimePoint()).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(Detail(status).field(), "options.thinking_token_budget");
  ServedModel model = Model();
  model.vocab_size = 1000;
  model.text = LoadModelText(WHALEPOD_MODELS_DIR "/r1-draft");
  const ReasoningTags tags = ReasoningTagsOf(*model.text.tokenizer).value();
  v1::SamplingParams sampling = ValidateGenerate(model, request, TimePoint())->request.sampling;
  EXPECT_EQ(sampling.thinking_budget(), 7u);
  EXPECT_EQ(sampling.think_end(), tags.close);
  EXPECT_FALSE(sampling.think_open());
  request.mutable_token_ids()->add_ids(tags.open);
  sampling = ValidateGenerate(model, request, TimePoint())->request.sampling;
  EXPECT_TRUE(sampling.think_open());
}

TEST(Validate, LongerThanAllKv) {
  ServedModel model = Model();
  model.kv_tokens = 20;
  const absl::Status status = ValidateGenerate(model, Request(20), TimePoint()).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(Detail(status).limit(), HasSubstr("the KV cache holds 20"));
  EXPECT_EQ(ValidateGenerate(model, Request(19), TimePoint())->request.sampling.max_tokens(), 1u);
}

TEST(Validate, OtherRefusals) {
  v1::GenerateRequest request = Request();
  request.set_model("gpt-oss");
  absl::Status status = ValidateGenerate(Model(), request, TimePoint()).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(Detail(status).value(), "gpt-oss");
  EXPECT_EQ(Detail(status).limit(), "r1-draft");
  request = v1::GenerateRequest();
  request.set_text("hello");
  status = ValidateGenerate(Model(), request, TimePoint()).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(Detail(status).field(), "prompt.text");
}

TEST(Errors, RetryDelay) {
  const absl::Status status =
      WithRetryDelay(absl::ResourceExhaustedError("full"), "QUEUE_FULL", 1500);
  EXPECT_EQ(Detail(status).retry_delay_ms(), 1500u);
  EXPECT_TRUE(ToGrpcStatus(absl::OkStatus()).ok());
  EXPECT_TRUE(ToGrpcStatus(absl::InternalError("x")).error_details().empty());
}

// What changes no token does not count: a deployment with another context goes on with an answer.
TEST(Fingerprint, IsOfWhatTokensDependOn) {
  ServedModel model;
  model.identity = "shapes";
  SchedulerRequest request;
  request.prompt = {1, 2, 3};
  request.sampling.set_seed(7);
  request.sampling.set_max_tokens(100);
  const std::string print = FingerprintOf(model, request);
  EXPECT_EQ(print.size(), 16u);
  SchedulerRequest longer = request;
  longer.sampling.set_max_tokens(200);
  longer.sampling.set_logprobs(5);
  longer.priority = 3;
  EXPECT_EQ(FingerprintOf(model, longer), print);
  SchedulerRequest other = request;
  other.prompt.back() = 4;
  EXPECT_NE(FingerprintOf(model, other), print);
  other = request;
  other.sampling.set_temperature(0.5f);
  EXPECT_NE(FingerprintOf(model, other), print);
  model.identity = "other shapes";
  EXPECT_NE(FingerprintOf(model, request), print);
}

}  // namespace
}  // namespace whalepod
