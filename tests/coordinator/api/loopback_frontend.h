// An engine over ranks in this process, and a frontend before it: what transports are tested with.
#pragma once

#include <memory>

#include "base/log.h"
#include "coordinator/api/frontend.h"
#include "gtest/gtest.h"
#include "tests/coordinator/sched/loopback_ranks.h"

namespace whalepod {

// 4 slots, 64 KV blocks of 4 tokens, a queue of 6, a vocabulary of 1000.
class LoopbackFrontend {
 public:
  LoopbackFrontend() {
    // Made here, as programs do: ThreadSanitizer does not see the lock in spdlog's library.
    spdlog::default_logger();
    SchedulerConfig config;
    config.group_blocks = {64};
    config.block_tokens = 4;
    config.max_num_seqs = 4;
    config.max_num_batched_tokens = 64;
    config.max_model_len = 200;
    config.max_waiting = 6;
    config.min_chunk = 16;
    ModelWorker::Config worker;
    worker.group_blocks = config.group_blocks;
    worker.block_tokens = 4;
    worker.max_num_seqs = 4;
    worker.max_num_batched_tokens = 64;
    worker.vocab_size = 1000;
    ranks = std::make_unique<LoopbackRanks>(worker);
    Engine::Options options;
    options.sender = ranks.get();
    options.idle_step = std::chrono::milliseconds(20);
    engine = std::make_unique<Engine>(options, Scheduler::Create(config).value());
    ranks->engine = engine.get();
    engine->Start();
    model.name = "r1-draft";
    model.model_type = "deepseek_v3";
    model.vocab_size = 1000;
    model.max_model_len = 200;
    model.kv_tokens = engine->MaxSequenceTokens();
    model.eos_token_ids = {1};
    model.layout = "tp2";
    frontend = std::make_unique<Frontend>(model, [](v1::GetStatusResponse* status) {
      status->set_state("starting");
      status->set_message("phase LOADED: 1 of 2 ranks");
    });
  }
  // Servers go first.
  ~LoopbackFrontend() {
    frontend.reset();
    engine->Stop();  // sends to the ranks
    ranks.reset();   // answer the engine
  }
  void SetReady() { frontend->SetReady(model, engine.get()); }

  // Waits until nothing runs or waits and every block is free.
  void ExpectAllFreed() const {
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(20);
    SchedulerStats stats = engine->Stats();
    while ((stats.running + stats.waiting + stats.blocks_owned + stats.blocks_promised > 0) &&
           std::chrono::steady_clock::now() < deadline) {
      std::this_thread::yield();
      stats = engine->Stats();
    }
    EXPECT_EQ(stats.running + stats.waiting + stats.blocks_owned + stats.blocks_promised, 0u);
    EXPECT_TRUE(engine->Audit().ok()) << engine->Audit();
  }

  ServedModel model;
  std::unique_ptr<LoopbackRanks> ranks;
  std::unique_ptr<Engine> engine;
  std::unique_ptr<Frontend> frontend;
};

}  // namespace whalepod
