// Plans for people and for scripts. Keys of the JSON form are stable: docs/plan-format.md.
#pragma once

#include <string>

#include "whalepod/v1/plan.pb.h"

namespace whalepod {

// Both take plans that ValidatePlan accepts.
//
// A page of text: model totals, layout, ranks (equal ones on one line), ledger, collectives of one
// step, skipped tensors.
std::string RenderPlanText(const v1::ShardingPlan& plan);
// The same content as one JSON object.
std::string RenderPlanJson(const v1::ShardingPlan& plan);

}  // namespace whalepod
