// Bodies of type multipart/form-data (RFC 7578), as clients upload files.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace whalepod {

struct FormPart {
  std::string name, filename;
  absl::string_view content;  // of the body
};

// INVALID_ARGUMENT says what is malformed.
absl::StatusOr<std::vector<FormPart>> ParseMultipart(absl::string_view content_type,
                                                     absl::string_view body);

}  // namespace whalepod
