#include "proto/plan/render.h"

namespace whalepod {

std::string RenderPlanText(const v1::ShardingPlan& plan) { return plan.model().name(); }
std::string RenderPlanJson(const v1::ShardingPlan& plan) { return "{}"; }

}  // namespace whalepod
