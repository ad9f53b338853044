#include "coordinator/fleet/epoch_store.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <sstream>
#include <system_error>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "base/status.h"

namespace whalepod {

absl::StatusOr<std::unique_ptr<EpochStore>> EpochStore::Open(const std::string& dir) {
  std::unique_ptr<EpochStore> store(new EpochStore(dir));
  if (dir.empty()) return store;
  std::error_code error;
  std::filesystem::create_directories(dir, error);
  if (error) return ErrnoStatus(error.value(), absl::StrCat("make state folder ", dir));

  const std::string lock_path = dir + "/lock";
  store->lock_ = UniqueFd(::open(lock_path.c_str(), O_CREAT | O_RDWR | O_CLOEXEC, 0644));
  if (!store->lock_.valid()) return ErrnoStatus(errno, absl::StrCat("open ", lock_path));
  if (::flock(store->lock_.get(), LOCK_EX | LOCK_NB) != 0) {
    if (errno != EWOULDBLOCK) return ErrnoStatus(errno, absl::StrCat("lock ", lock_path));
    return absl::FailedPreconditionError(
        absl::StrCat("state folder ", dir, " is in use by another coordinator"));
  }
  const std::string path = dir + "/epoch";
  std::ifstream file(path);
  if (!file) return store;
  std::stringstream text;
  text << file.rdbuf();
  const std::string number(absl::StripAsciiWhitespace(text.str()));
  if (!absl::SimpleAtoi(number, &store->epoch_)) {
    return absl::DataLossError(
        absl::StrCat(path, ": expected one decimal number, found \"", number.substr(0, 40), "\""));
  }
  return store;
}

absl::StatusOr<uint64_t> EpochStore::Next() {
  if (!dir_.empty()) RETURN_IF_ERROR(Write(epoch_ + 1));
  return ++epoch_;
}

absl::Status EpochStore::Write(uint64_t epoch) const {
  const std::string path = dir_ + "/epoch";
  const std::string fresh = path + ".new";
  const std::string text = absl::StrCat(epoch, "\n");
  {
    UniqueFd file(::open(fresh.c_str(), O_CREAT | O_TRUNC | O_WRONLY | O_CLOEXEC, 0644));
    if (!file.valid()) return ErrnoStatus(errno, absl::StrCat("open ", fresh));
    if (::write(file.get(), text.data(), text.size()) != static_cast<ssize_t>(text.size()) ||
        ::fsync(file.get()) != 0) {
      return ErrnoStatus(errno, absl::StrCat("write ", fresh));
    }
  }
  if (::rename(fresh.c_str(), path.c_str()) != 0) {
    return ErrnoStatus(errno, absl::StrCat("rename ", fresh));
  }
  UniqueFd folder(::open(dir_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!folder.valid() || ::fsync(folder.get()) != 0) {
    return ErrnoStatus(errno, absl::StrCat("sync ", dir_));
  }
  return absl::OkStatus();
}

}  // namespace whalepod
