// A database file that is one kind of store of ours, and no other program's.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "coordinator/storage/database.h"

namespace whalepod {

struct StoreFormat {
  const char* name = nullptr;    // "job store", for errors
  int64_t application = 0;       // of the file's header: which kind of store it is
  int64_t version = 0;           // of the schema, from 1
  const char* schema = nullptr;  // statements that make it
};

// Opens the file, made where it is missing and checked where it is there, and holds it until the
// process ends. What a transaction has written survives kill -9 and power loss. `most_pages`: of
// 4 KiB, 0: what the disk holds; for tests. Errors as Database's; FAILED_PRECONDITION also for a
// file of another kind or version, or on a file system that cannot keep a WAL.
absl::StatusOr<std::unique_ptr<Database>> OpenStore(const std::string& path,
                                                    const StoreFormat& format,
                                                    int64_t most_pages = 0);

}  // namespace whalepod
