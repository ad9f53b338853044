// InferenceService.GetUsage, whatever it came by.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "coordinator/usage/usage_store.h"
#include "whalepod/v1/inference.pb.h"

namespace whalepod {

// The accounts of the days asked for: those of `caller`, or with `all` everybody's. Waits for the
// disk. INVALID_ARGUMENT names the field; else as UsageStore::Read.
absl::Status AnswerUsage(UsageStore& store, const std::string& caller, bool all,
                         const v1::GetUsageRequest& request, v1::GetUsageResponse* response);

}  // namespace whalepod
