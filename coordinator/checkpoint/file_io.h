// Reading files of a checkpoint folder. Errors name the file.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/unique_fd.h"

namespace whalepod {

struct OpenFile {
  UniqueFd fd;
  int64_t bytes = 0;
};

// A regular file, for reading. NOT_FOUND where there is none, INVALID_ARGUMENT for anything else
// than a regular file.
absl::StatusOr<OpenFile> OpenForReading(const std::string& path);

// Exactly `bytes` bytes from `offset`; DATA_LOSS if the file ends before.
absl::Status ReadExactly(int fd, const std::string& path, int64_t offset, int64_t bytes,
                         void* dest);

// A whole file of at most `max_bytes`, else INVALID_ARGUMENT.
absl::StatusOr<std::string> ReadWholeFile(const std::string& path, int64_t max_bytes);

bool FileExists(const std::string& path);

}  // namespace whalepod
