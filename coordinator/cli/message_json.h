// Messages as JSON for people's scripts.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "google/protobuf/message.h"

namespace whalepod {

// On one line, fields by their names in the .proto, also those that are 0 or empty. INTERNAL for a
// message that has no JSON: one with an Any of an unknown type.
absl::StatusOr<std::string> MessageJson(const google::protobuf::Message& message);

}  // namespace whalepod
