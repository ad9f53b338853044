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
// Bytes of communication buffers of one rank: two contributions in each of its groups.
int64_t CommBytes(const v1::ShardingPlan& header, const v1::RankPart& part);

}  // namespace whalepod
