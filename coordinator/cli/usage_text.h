// Accounts for people and for their scripts.
#pragma once

#include <string>

#include "whalepod/v1/inference.pb.h"

namespace whalepod {

// What rows are told apart by; those that are not are summed up.
enum class UsageBy { kKey, kDay, kBoth };  // kBoth: and by source

// A table with a total. Lines end with a newline.
std::string UsageText(const v1::GetUsageResponse& usage, UsageBy by);

// The same as one JSON object: "from_day", "to_day", "in_memory", "rows", "total". Rows have the
// fields of UsageRow, without those that they are not told apart by; `source` is "interactive" or
// "job".
std::string UsageJson(const v1::GetUsageResponse& usage, UsageBy by);

}  // namespace whalepod
