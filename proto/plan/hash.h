// What makes a plan attestable: SHA-256 of each rank's part, and a root over all of them.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "google/protobuf/message_lite.h"
#include "whalepod/v1/plan.pb.h"

namespace whalepod {

// SHA-256 of `data`, 32 raw bytes.
std::string Sha256(const std::string& data);
// A message's bytes, equal for equal messages: maps are in order.
std::string Deterministic(const google::protobuf::MessageLite& message);
std::string HexOf(const std::string& bytes);

// Everything of a plan but `ranks`.
v1::ShardingPlan HeaderOf(const v1::ShardingPlan& plan);

// SHA-256 of the part's deterministic serialisation with `hash` empty.
std::string PartHash(const v1::RankPart& part);

// SHA-256 over the hash of the header (its `ranks` and `hash` left out) and the ranks' hashes.
std::string PlanRoot(const v1::ShardingPlan& header, const std::vector<std::string>& rank_hashes);

// Sets every rank's hash and the plan's.
void HashPlan(v1::ShardingPlan* plan);

// What rank `rank` is sent. The plan must be hashed; `rank` must be in range.
v1::PlanPart MakePlanPart(const v1::ShardingPlan& plan, int rank);

// The worker's side: its part's hash is right, stands at its place among rank_hashes, and the root
// over header and rank_hashes is the header's hash. DATA_LOSS says which differs.
absl::Status CheckPlanPart(const v1::PlanPart& part);

}  // namespace whalepod
