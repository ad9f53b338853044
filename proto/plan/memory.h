// Sizes both sides must agree on: the planner writes them into ledgers, the coordinator's block
// manager and the workers' arenas are made of them.
#pragma once

#include <cstdint>

#include "whalepod/v1/plan.pb.h"

namespace whalepod {

// Bytes of one packed [n, k] weight matrix (kernels/packing.h has the layout): n up to a multiple
// of 32, k to a multiple of 2.
int64_t PackedWeightBytes(v1::DType dtype, int64_t n, int64_t k);
int64_t DTypeBytes(v1::DType dtype);

// One block of latents in all of a rank's layers.
int64_t KvBlockBytes(const v1::ModelSpec& model, const v1::RuntimeSpec& runtime, int64_t layers);
// Blocks that the rank's ledger pays for; equal on all TP ranks of a DP group.
int64_t KvBlocks(const v1::ShardingPlan& header, const v1::RankPart& part);

// Bytes of the buffers of one rank's forward pass and sampler; activation_bytes.cc.
int64_t ActivationBytes(const v1::ModelSpec& model, const v1::Layout& layout,
                        const v1::RuntimeSpec& runtime, int rank);

// The most bytes that one rank contributes to one operation of group `group` (an index into
// header.groups), all peers together: CommunicatorFactory::GroupSpec::max_bytes. comm_bytes.cc.
int64_t MaxContribution(const v1::ShardingPlan& header, int group);

// What a rank's communicators allocate (worker/comm), of groups whose ranks contribute at most
// `max_bytes`. Longer messages go in pieces of kMaxOutboxBytes (shared memory) or
// kMaxGlooPieceBytes.
constexpr int64_t kMaxOutboxBytes = int64_t{8} << 20;
constexpr int64_t kMaxGlooPieceBytes = int64_t{256} << 10;
// One rank's outbox, for messages or pieces of at most `max_bytes`, and the memory of a group,
// which its ranks share.
int64_t SharedMemoryOutboxBytes(int64_t ranks, int64_t max_bytes);
int64_t SharedMemoryGroupBytes(int64_t ranks, int64_t max_bytes);
// One rank's buffers for all its peers in a group.
int64_t GlooGroupBytes(int64_t ranks, int64_t max_bytes);

// Bytes of communication buffers of one rank, over its groups. CPUs: its share of the group's
// shared memory where all members are on one host, else Gloo's buffers. GPUs: two contributions.
int64_t CommBytes(const v1::ShardingPlan& header, const v1::RankPart& part);

}  // namespace whalepod
