#include "coordinator/cli/status_text.h"

#include "gtest/gtest.h"

namespace whalepod {
namespace {

v1::RankStatus Rank(uint32_t number) {
  v1::RankStatus rank;
  rank.set_rank(number);
  rank.set_worker("w");
  rank.set_host("h");
  rank.set_pid(42);
  rank.set_phase("READY");
  rank.set_heartbeat_age_ms(90);
  return rank;
}

void AddMemory(v1::RankStatus& rank, const std::string& name, int64_t planned, int64_t actual) {
  v1::MemoryStatus* item = rank.add_memory();
  item->set_name(name);
  item->set_planned_bytes(planned);
  if (actual >= 0) item->set_actual_bytes(actual);
}

v1::GetModelResponse Model() {
  v1::GetModelResponse model;
  model.set_model("m");
  model.set_layout("tp2");
  model.set_max_model_len(64);
  return model;
}

TEST(StatusText, WhileStarting) {
  v1::GetStatusResponse status;
  status.set_state("starting");
  status.set_message("phase LOADED: 0 of 2 ranks");
  status.set_epoch(3);
  *status.add_ranks() = Rank(0);
  status.mutable_ranks(0)->set_phase("PLANNED");
  status.mutable_ranks(0)->set_load_bytes_done(1024);
  status.mutable_ranks(0)->set_load_bytes_total(4096);
  status.mutable_ranks(0)->set_load_bytes_per_second(2048);
  AddMemory(*status.mutable_ranks(0), "weights", 4096, -1);
  status.add_ranks()->set_rank(1);
  status.mutable_ranks(1)->set_phase("MISSING");
  EXPECT_EQ(StatusText(status, Model()),
            "starting: phase LOADED: 0 of 2 ranks\n"
            "model m, layout tp2, context 64, epoch 3, steps 0\n"
            "requests: 0 running, 0 waiting\n"
            "rank 0: PLANNED, worker w on h, pid 42, heard 90 ms ago, 1.00 KiB of 4.00 KiB loaded "
            "at 2.00 KiB/s\n"
            "  memory: weights 4.00 KiB planned\n"
            "rank 1: no worker\n");
}

TEST(StatusText, Ready) {
  v1::GetStatusResponse status;
  status.set_state("ready");
  status.set_epoch(3);
  status.set_steps(99);
  status.set_running(2);
  status.set_waiting(1);
  status.set_kv_blocks_total(8);
  status.set_kv_blocks_used(3);
  status.set_kv_block_tokens(64);
  status.set_rate_seconds(10);
  status.set_generation_tokens_per_second(123.45);
  status.set_prompt_tokens_per_second(1);
  status.set_requests_per_second(0.5);
  v1::RankStatus rank = Rank(0);
  rank.set_step_done(98);
  AddMemory(rank, "weights", 4096, 4096);
  AddMemory(rank, "kv", 1024, 1024);
  AddMemory(rank, "activations", 1024, 2048);
  AddMemory(rank, "reserve", 512, -1);
  *status.add_ranks() = rank;
  EXPECT_EQ(StatusText(status, Model()),
            "ready\n"
            "model m, layout tp2, context 64, epoch 3, steps 99\n"
            "requests: 2 running, 1 waiting\n"
            "rates over 10.0 s: 123.5 tokens/s generated, 1.0 prompt tokens/s, 0.50 requests/s\n"
            "KV: 3 of 8 blocks used (37.5 %), of 64 tokens each\n"
            "rank 0: READY, worker w on h, pid 42, heard 90 ms ago, step 98\n"
            "  memory: weights 4.00 KiB, kv 1.00 KiB as planned; activations 2.00 KiB where "
            "planned were 1.00 KiB; reserve 512 B planned\n");
}

}  // namespace
}  // namespace whalepod
