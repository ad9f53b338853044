// An engine over ranks in this process, and a frontend before it: what transports are tested with.
#pragma once

#include <memory>

#include "coordinator/api/frontend.h"
#include "gtest/gtest.h"
#include "tests/coordinator/sched/loopback_ranks.h"

namespace whalepod {

// 4 slots, 64 KV blocks of 4 tokens, a queue of 6, a vocabulary of 1000.
class LoopbackFrontend : public LoopbackEngine {
 public:
  LoopbackFrontend() : LoopbackEngine(Config()) {
    model.name = "r1-draft";
    model.model_type = "deepseek_v3";
    model.vocab_size = 1000;
    model.max_model_len = 200;
    model.kv_tokens = engine->MaxSequenceTokens();
    model.eos_token_ids = {1};
    model.layout = "tp2";
    frontend = std::make_unique<Frontend>(
        model,
        [](v1::GetStatusResponse* status) {
          status->set_state("starting");
          status->set_message("phase LOADED: 1 of 2 ranks");
        },
        &metrics, usage.get());
  }
  void SetReady() { frontend->SetReady(model, engine.get()); }

  // Waits until nothing runs or waits and every block is free.
  void ExpectAllFreed() const {
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(20);
    SchedulerStats stats = engine->Stats();
    while ((stats.running + stats.waiting + stats.blocks_owned > 0) &&
           std::chrono::steady_clock::now() < deadline) {
      std::this_thread::yield();
      stats = engine->Stats();
    }
    EXPECT_EQ(stats.running + stats.waiting + stats.blocks_owned, 0u);
    EXPECT_TRUE(engine->Audit().ok()) << engine->Audit();
  }

  // Servers and the frontend go before the engine.
  ServedModel model;
  ServingMetrics metrics{"r1-draft"};
  // In memory, on one day.
  std::unique_ptr<UsageStore> usage = UsageStore::Open({.now_ms = [] { return 0; }}).value();
  std::unique_ptr<Frontend> frontend;

 private:
  static SchedulerConfig Config() {
    SchedulerConfig config;
    config.group_blocks = {64};
    config.block_tokens = 4;
    config.max_num_seqs = 4;
    config.max_num_batched_tokens = 64;
    config.max_model_len = 200;
    config.max_waiting = 6;
    config.min_chunk = 16;
    return config;
  }
};

}  // namespace whalepod
