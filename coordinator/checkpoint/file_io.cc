#include "coordinator/checkpoint/file_io.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status.h"

namespace whalepod {

absl::StatusOr<OpenFile> OpenForReading(const std::string& path) {
  OpenFile file;
  // Non-blocking, so that a FIFO in the folder can't hang us; regular files don't care.
  file.fd = UniqueFd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (!file.fd.valid()) return ErrnoStatus(errno, path);
  struct stat info = {};
  if (::fstat(file.fd.get(), &info) != 0) return ErrnoStatus(errno, path);
  if (!S_ISREG(info.st_mode)) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": expected a regular file"));
  }
  file.bytes = info.st_size;
  return file;
}

absl::Status ReadExactly(int fd, const std::string& path, int64_t offset, int64_t bytes,
                         void* dest) {
  char* to = static_cast<char*>(dest);
  int64_t done = 0;
  while (done < bytes) {
    const ssize_t got = ::pread(fd, to + done, static_cast<size_t>(bytes - done), offset + done);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return ErrnoStatus(errno, absl::StrCat(path, ": read at ", offset + done));
    if (got == 0) {
      return absl::DataLossError(absl::StrCat(path, ": expected ", bytes, " bytes at ", offset,
                                              ", found ", done, ", then the end of the file"));
    }
    done += got;
  }
  return absl::OkStatus();
}

absl::StatusOr<std::string> ReadWholeFile(const std::string& path, int64_t max_bytes) {
  ASSIGN_OR_RETURN(const OpenFile file, OpenForReading(path));
  if (file.bytes > max_bytes) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, ": expected at most ", max_bytes, " bytes, found ", file.bytes));
  }
  std::string text(static_cast<size_t>(file.bytes), '\0');
  RETURN_IF_ERROR(ReadExactly(file.fd.get(), path, 0, file.bytes, text.data()));
  return text;
}

bool FileExists(const std::string& path) { return ::access(path.c_str(), F_OK) == 0; }

}  // namespace whalepod
