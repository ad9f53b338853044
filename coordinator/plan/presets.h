// Models that are planned without a checkpoint.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "whalepod/v1/plan.pb.h"

namespace whalepod {

std::vector<std::string> PresetNames();
// NOT_FOUND lists the names there are.
absl::StatusOr<v1::ModelSpec> Preset(const std::string& name);

}  // namespace whalepod
