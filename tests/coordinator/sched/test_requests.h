// Small deployments and requests for the scheduler's tests.
#pragma once

#include <memory>
#include <utility>

#include "coordinator/sched/scheduler.h"
#include "gtest/gtest.h"

namespace whalepod {

inline SchedulerConfig SmallConfig() {
  SchedulerConfig config;
  config.group_blocks = {16};
  config.block_tokens = 4;
  config.max_num_seqs = 4;
  config.max_num_batched_tokens = 16;
  config.max_model_len = 48;
  config.min_chunk = 1;
  return config;
}

inline SchedulerRequest MakeRequest(uint32_t prompt_len, uint32_t max_tokens, uint32_t salt = 1) {
  SchedulerRequest request;
  for (uint32_t i = 0; i < prompt_len; ++i) request.prompt.push_back(salt * 1000 + i);
  request.sampling.set_seed(salt);
  request.sampling.set_max_tokens(max_tokens);
  request.sampling.set_ignore_eos(true);
  return request;
}

inline std::unique_ptr<Scheduler> Make(const SchedulerConfig& config) {
  auto scheduler = Scheduler::Create(config);
  EXPECT_TRUE(scheduler.ok()) << scheduler.status();
  return std::move(scheduler).value();
}

}  // namespace whalepod
