#include "coordinator/api/validate.h"

#include <cmath>
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
  model.default_temperature = 0.6f;
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
  const absl::Status status = ValidateGenerate(Model(), request).status();
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
    const auto checked = ValidateGenerate(Model(), request);
    ASSERT_TRUE(checked.ok()) << checked.status();
    EXPECT_EQ(checked->request.sampling.temperature(), 0.0f) << cold;
  }
}

TEST(Validate, FillsDefaults) {
  auto request = ValidateGenerate(Model(), Request());
  ASSERT_TRUE(request.ok()) << request.status();
  EXPECT_EQ(request->request.prompt, (std::vector<uint32_t>{0, 1, 2}));
  EXPECT_FLOAT_EQ(request->request.sampling.temperature(), 0.6f);
  EXPECT_EQ(request->request.sampling.max_tokens(), 47u);
  EXPECT_EQ(request->request.sampling.logprobs(), -1);
  EXPECT_FALSE(request->request.sampling.ignore_eos());
  EXPECT_NE(request->request.sampling.seed(),
            ValidateGenerate(Model(), Request())->request.sampling.seed());
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
  auto checked = ValidateGenerate(Model(), request);
  ASSERT_TRUE(checked.ok()) << checked.status();
  EXPECT_EQ(checked->request.sampling.temperature(), 0.0f);
  EXPECT_EQ(checked->request.sampling.seed(), 0u);
  EXPECT_EQ(checked->request.sampling.max_tokens(), 47u);
  EXPECT_EQ(checked->request.sampling.logprobs(), 0);
  EXPECT_TRUE(checked->request.sampling.ignore_eos());
  EXPECT_EQ(checked->request.sampling.stop_token_ids(0), 99u);
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
  EXPECT_EQ(ValidateGenerate(Model(), request).status().code(),
            absl::StatusCode::kFailedPrecondition);  // no tokenizer
  ServedModel model = Model();
  model.text = LoadModelText(WHALEPOD_MODELS_DIR "/r1-draft");
  EXPECT_EQ(ValidateGenerate(model, request)->stop, std::vector<std::string>{"x"});
  for (const std::string& bad : {std::string(), std::string(257, 'x')}) {
    request.mutable_options()->set_stop(0, bad);
    const absl::Status status = ValidateGenerate(model, request).status();
    EXPECT_EQ(Detail(status).field(), "options.stop[0]");
  }
  request = Request();
  for (int i = 0; i < 17; ++i) request.mutable_options()->add_stop("x");
  EXPECT_EQ(Detail(ValidateGenerate(model, request).status()).field(), "options.stop");
}

TEST(Validate, LongerThanAllKv) {
  ServedModel model = Model();
  model.kv_tokens = 20;
  const absl::Status status = ValidateGenerate(model, Request(20)).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(Detail(status).limit(), HasSubstr("the KV cache holds 20"));
  EXPECT_EQ(ValidateGenerate(model, Request(19))->request.sampling.max_tokens(), 1u);
}

TEST(Validate, OtherRefusals) {
  v1::GenerateRequest request = Request();
  request.set_model("gpt-oss");
  absl::Status status = ValidateGenerate(Model(), request).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(Detail(status).value(), "gpt-oss");
  EXPECT_EQ(Detail(status).limit(), "r1-draft");
  request = v1::GenerateRequest();
  request.set_text("hello");
  status = ValidateGenerate(Model(), request).status();
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

}  // namespace
}  // namespace whalepod
