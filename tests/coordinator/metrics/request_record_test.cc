#include "coordinator/metrics/request_record.h"

#include "gtest/gtest.h"
#include "tests/coordinator/metrics/series.h"

namespace whalepod {
namespace {

using std::chrono::milliseconds;

class RequestRecordTest : public ::testing::Test {
 protected:
  RequestRecord Arrive(Transport transport = Transport::kGrpc) {
    return RequestRecord(&metrics_, usage_.get(), transport, TimePoint());
  }
  static TimePoint At(int ms) { return TimePoint(milliseconds(ms)); }
  // Of a series without further labels.
  double Get(const std::string& name) { return Read(name + "{model_name=\"m\"}"); }
  // Of one with further labels, as they are written.
  double Get(const std::string& name, const std::string& labels) {
    return Read(absl::StrCat(name, "{model_name=\"m\",", labels, "}"));
  }
  double Success(const std::string& reason) {
    return Get("vllm:request_success_total", absl::StrCat("finished_reason=\"", reason, "\""));
  }
  double Requests(const std::string& transport, const std::string& outcome) {
    return Get("whalepod:requests_total",
               absl::StrCat("transport=\"", transport, "\",outcome=\"", outcome, "\""));
  }

  // "key source requests input cached output reasoning", a line each.
  std::string Accounts() {
    const auto rows = usage_->Read({.from_day = "1970-01-01", .to_day = "1970-01-01"});
    std::string text;
    for (const v1::UsageRow& row : *rows) {
      absl::StrAppend(&text, row.api_key(), " ", v1::UsageSource_Name(row.source()).substr(13), " ",
                      row.requests(), " ", row.input_tokens(), " ", row.cached_input_tokens(), " ",
                      row.output_tokens(), " ", row.reasoning_tokens(), "\n");
    }
    return text;
  }
  double Cost() {
    const auto rows = usage_->Read({.from_day = "1970-01-01", .to_day = "1970-01-01"});
    return rows->empty() ? 0 : rows->front().cost_dollars();
  }

  ServingMetrics metrics_{"m"};
  std::unique_ptr<UsageStore> usage_ =
      UsageStore::Open(
          {.now_ms = [] { return 0; }, .prices = {.cached_input = 1, .input = 10, .output = 100}})
          .value();

 private:
  double Read(const std::string& series) { return Value(metrics_.Text(), series).value_or(-1); }
};

// What an earlier deployment generated belongs to the account, and to no rate or latency.
TEST_F(RequestRecordTest, ARequestThatGoesOnAfterARestart) {
  {
    RequestRecord first = Arrive();
    first.SetResumable();
    first.OnSubmitted(/*choices=*/1, /*prompt_tokens=*/7, /*max_tokens=*/50);
    first.OnToken(0, At(100));
    first.OnToken(0, At(110));
    first.OnEnd(absl::UnavailableError("a rank is lost"), "", At(120));
  }
  EXPECT_EQ(Accounts(), "");
  EXPECT_EQ(Get("vllm:generation_tokens_total"), 2);
  RequestRecord record = Arrive();
  record.SetResumable();
  record.OnHistory();
  record.OnHistory();
  record.OnSubmitted(1, 7, 50);
  record.OnScheduled(0, /*cached_tokens=*/9, At(990));  // more than the prompt has: of the history
  record.OnToken(0, At(1000));
  record.OnToken(0, At(1020));
  EXPECT_EQ(Get("vllm:generation_tokens_total"), 4);
  EXPECT_EQ(Get("vllm:inter_token_latency_seconds_count"), 2);
  EXPECT_DOUBLE_EQ(Get("vllm:inter_token_latency_seconds_sum"), 0.03);
  record.OnChoiceEnd(0, v1::FINISH_REASON_STOP, At(1021));
  record.OnEnd(absl::OkStatus(), "", At(1021));
  EXPECT_EQ(record.UsageOf(0).completion_tokens(), 4u);
  EXPECT_EQ(Accounts(), " INTERACTIVE 1 0 7 4 0\n");
}

TEST_F(RequestRecordTest, AFinishedRequest) {
  RequestRecord record = Arrive();
  record.SetId("a");
  record.OnSubmitted(/*choices=*/1, /*prompt_tokens=*/7, /*max_tokens=*/50);
  record.OnScheduled(0, /*cached_tokens=*/0, At(30));
  record.OnScheduled(0, /*cached_tokens=*/0, At(35));  // after a preemption: not again
  record.OnToken(0, At(100));
  EXPECT_EQ(Get("vllm:prompt_tokens_total"), 7);
  EXPECT_EQ(Get("vllm:generation_tokens_total"), 1);
  record.OnToken(0, At(120));
  record.OnToken(0, At(160));
  record.OnChoiceEnd(0, v1::FINISH_REASON_STOP, At(161));
  record.OnEnd(absl::OkStatus(), "", At(162));
  record.OnEnd(absl::CancelledError(""), "", At(170));  // the first counts

  EXPECT_EQ(Get("vllm:prompt_tokens_total"), 7);
  EXPECT_EQ(Get("vllm:generation_tokens_total"), 3);
  EXPECT_EQ(Get("vllm:request_queue_time_seconds_count"), 1);
  EXPECT_DOUBLE_EQ(Get("vllm:request_queue_time_seconds_sum"), 0.03);
  EXPECT_DOUBLE_EQ(Get("vllm:time_to_first_token_seconds_sum"), 0.1);
  EXPECT_EQ(Get("vllm:time_to_first_token_seconds_bucket", "le=\"0.08\""), 0);
  EXPECT_EQ(Get("vllm:time_to_first_token_seconds_bucket", "le=\"0.1\""), 1);
  EXPECT_EQ(Get("vllm:inter_token_latency_seconds_count"), 2);
  EXPECT_DOUBLE_EQ(Get("vllm:inter_token_latency_seconds_sum"), 0.06);
  EXPECT_DOUBLE_EQ(Get("vllm:request_time_per_output_token_seconds_sum"), 0.03);
  EXPECT_DOUBLE_EQ(Get("vllm:request_prefill_time_seconds_sum"), 0.07);
  EXPECT_DOUBLE_EQ(Get("vllm:request_decode_time_seconds_sum"), 0.06);
  EXPECT_DOUBLE_EQ(Get("vllm:request_inference_time_seconds_sum"), 0.13);
  EXPECT_DOUBLE_EQ(Get("vllm:e2e_request_latency_seconds_sum"), 0.161);
  EXPECT_EQ(Get("vllm:request_prompt_tokens_sum"), 7);
  EXPECT_EQ(Get("vllm:request_generation_tokens_sum"), 3);
  EXPECT_EQ(Get("vllm:request_params_n_sum"), 1);
  EXPECT_EQ(Get("vllm:request_params_max_tokens_sum"), 50);
  EXPECT_EQ(Success("stop"), 1);
  EXPECT_EQ(Success("abort"), 0);
  EXPECT_EQ(Requests("grpc", "finished"), 1);
  EXPECT_EQ(Requests("grpc", "cancelled"), 0);
  EXPECT_EQ(Requests("http", "finished"), 0);
}

TEST_F(RequestRecordTest, ChoicesCountOneByOne) {
  RequestRecord record = Arrive(Transport::kHttp);
  record.OnSubmitted(3, 5, 4);
  for (const uint32_t choice : {0, 1}) {
    record.OnScheduled(choice, /*cached_tokens=*/0, At(1));
    record.OnToken(choice, At(2));
  }
  record.OnChoiceEnd(0, v1::FINISH_REASON_LENGTH, At(3));
  record.OnEnd(absl::CancelledError("gone"), "", At(4));
  EXPECT_EQ(Get("vllm:prompt_tokens_total"), 10);
  EXPECT_EQ(Success("length"), 1);
  EXPECT_EQ(Success("abort"), 2);
  EXPECT_EQ(Get("vllm:e2e_request_latency_seconds_count"), 1);
  EXPECT_EQ(Requests("http", "cancelled"), 1);
}

TEST_F(RequestRecordTest, OutcomesOfRequestsNotTaken) {
  Arrive().OnEnd(absl::InvalidArgumentError("bad"), "OUT_OF_RANGE", At(1));
  Arrive().OnEnd(absl::UnavailableError("early"), "NOT_READY", At(1));
  Arrive().OnEnd(absl::UnavailableError("over"), "", At(1));
  Arrive().OnEnd(absl::CancelledError("gone"), "", At(1));
  EXPECT_EQ(Requests("grpc", "rejected"), 3);
  EXPECT_EQ(Requests("grpc", "cancelled"), 1);
  EXPECT_EQ(Get("whalepod:requests_rejected_total", "reason=\"OUT_OF_RANGE\""), 1);
  EXPECT_EQ(Get("whalepod:requests_rejected_total", "reason=\"NOT_READY\""), 1);
  EXPECT_EQ(Get("whalepod:requests_rejected_total", "reason=\"UNAVAILABLE\""), 1);
  EXPECT_EQ(Success("abort") + Success("error"), 0);
  EXPECT_EQ(Get("vllm:request_params_n_count"), 0);
}

TEST_F(RequestRecordTest, OutcomesOfRequestsUnderWay) {
  const auto end = [this](const absl::Status& status, bool stalled) {
    RequestRecord record = Arrive();
    record.OnSubmitted(1, 2, 3);
    if (stalled) record.OnStalled();
    record.OnEnd(status, "", At(9));
  };
  end(absl::CancelledError("slow"), true);
  end(absl::DeadlineExceededError("late"), false);
  end(absl::DataLossError("NaN"), false);
  end(absl::UnavailableError("lost"), false);
  EXPECT_EQ(Requests("grpc", "stalled"), 1);
  EXPECT_EQ(Requests("grpc", "expired"), 1);
  EXPECT_EQ(Requests("grpc", "failed"), 2);
  EXPECT_EQ(Success("abort"), 2);
  EXPECT_EQ(Success("error"), 2);
}

// Two choices of a prompt of 7, the second of which finds it in the cache.
class UsageTest : public RequestRecordTest {
 protected:
  RequestRecord Run(Transport transport, uint32_t tokens) {
    RequestRecord record = Arrive(transport);
    record.SetCaller("alice");
    record.OnSubmitted(/*choices=*/2, /*prompt_tokens=*/7, /*max_tokens=*/50);
    record.OnScheduled(0, /*cached_tokens=*/4, At(1));
    record.OnScheduled(0, /*cached_tokens=*/6, At(2));  // after a preemption
    record.OnScheduled(1, /*cached_tokens=*/7, At(3));
    for (uint32_t i = 0; i < tokens; ++i) record.OnToken(i % 2, At(4));
    if (tokens > 0) record.OnReasoning(0);
    return record;
  }
};

TEST_F(UsageTest, TheSumOfTheChoicesIsTheRequests) {
  RequestRecord record = Run(Transport::kGrpc, 5);
  const v1::Usage first = record.UsageOf(0), second = record.UsageOf(1);
  EXPECT_EQ(first.prompt_tokens(), 7u);
  EXPECT_EQ(first.cached_tokens(), 4u);
  EXPECT_EQ(first.completion_tokens(), 3u);
  EXPECT_EQ(first.reasoning_tokens(), 1u);
  EXPECT_DOUBLE_EQ(first.cost_dollars(), (4 * 1 + 3 * 10 + 3 * 100) / 1e6);
  EXPECT_EQ(second.prompt_tokens(), 7u);
  EXPECT_EQ(second.cached_tokens(), 7u);
  EXPECT_DOUBLE_EQ(second.cost_dollars(), 2 * 100 / 1e6);
  EXPECT_EQ(Accounts(), "") << "counted before its end";
  record.OnEnd(absl::OkStatus(), "", At(5));
  record.OnEnd(absl::OkStatus(), "", At(6));
  EXPECT_EQ(Accounts(), "alice INTERACTIVE 1 3 4 5 1\n");
  EXPECT_DOUBLE_EQ(Cost(), first.cost_dollars() + second.cost_dollars());
}

TEST_F(UsageTest, WhatWasGeneratedCountsHoweverTheRequestEnds) {
  Run(Transport::kGrpc, 2).OnEnd(absl::CancelledError(""), "", At(5));
  Run(Transport::kHttp, 1).OnEnd(absl::UnavailableError("rank 3 is lost"), "", At(5));
  Run(Transport::kHttp, 1).OnEnd(absl::DeadlineExceededError(""), "", At(5));
  EXPECT_EQ(Accounts(), "alice INTERACTIVE 3 9 12 4 3\n");
}

TEST_F(UsageTest, WithoutATokenNothingCounts) {
  Run(Transport::kGrpc, 0).OnEnd(absl::CancelledError(""), "", At(5));
  Arrive().OnEnd(absl::InvalidArgumentError(""), "OUT_OF_RANGE", At(5));
  EXPECT_EQ(Accounts(), "");
}

// One that ends otherwise is begun anew, or its job is over.
TEST_F(UsageTest, OfAJobAnswersCount) {
  Run(Transport::kJob, 2).OnEnd(absl::CancelledError(""), "", At(5));
  Run(Transport::kJob, 2).OnEnd(absl::UnavailableError(""), "", At(5));
  EXPECT_EQ(Accounts(), "");
  Run(Transport::kJob, 2).OnEnd(absl::OkStatus(), "", At(5));
  EXPECT_EQ(Accounts(), "alice JOB 1 3 4 2 1\n");
}

}  // namespace
}  // namespace whalepod
