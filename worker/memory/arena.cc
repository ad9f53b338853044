#include "worker/memory/arena.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <fstream>
#include <sstream>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "base/unique_fd.h"
#include "base/units.h"

namespace whalepod {
namespace {

// Older headers lack it; the kernel has it since 5.14.
constexpr int kMadvPopulateWrite = 23;

absl::Status NoMemory(const std::string& item, int64_t bytes, const std::string& what) {
  return absl::ResourceExhaustedError(absl::StrCat(
      "arena \"", item, "\" needs ", FormatBytes(bytes), " (", bytes, " bytes): ", what,
      "; the machine has ", FormatBytes(AvailableMemory()), " available"));
}

absl::Status FromErrno(const std::string& item, int64_t bytes, int error, const std::string& call) {
  if (error == ENOMEM || error == ENOSPC) {
    return NoMemory(item, bytes, absl::StrCat(call, ": ", std::strerror(error)));
  }
  return ErrnoStatus(error, absl::StrCat("arena \"", item, "\": ", call));
}

absl::Status Prefault(const std::string& item, std::byte* data, int64_t bytes) {
  if (madvise(data, bytes, kMadvPopulateWrite) == 0) return absl::OkStatus();
  if (errno != EINVAL) return FromErrno(item, bytes, errno, "prefault");
  const int64_t page = sysconf(_SC_PAGESIZE);
  for (int64_t at = 0; at < bytes; at += page) {
    *const_cast<volatile std::byte*>(data + at) = std::byte{0};
  }
  return absl::OkStatus();
}

// The number in a line like "Size:   1024 kB", in bytes.
int64_t KilobytesOf(const std::string& line) {
  std::istringstream in(line.substr(line.find(':') + 1));
  int64_t kib = 0;
  in >> kib;
  return kib * kKiB;
}

}  // namespace

absl::StatusOr<Arena> Arena::Create(const std::string& item, int64_t bytes,
                                    const Options& options) {
  if (bytes < 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("arena \"", item, "\": ", bytes, " bytes is negative"));
  }
  Arena arena;
  if (bytes == 0) return arena;
  // The kernel would promise more than it has and kill someone later: refuse by name now.
  if (const int64_t available = AvailableMemory(); available >= 0 && bytes > available) {
    return NoMemory(item, bytes, "more than is available");
  }
  const UniqueFd fd(memfd_create(absl::StrCat(kArenaPrefix, item).c_str(), MFD_CLOEXEC));
  if (!fd.valid()) return FromErrno(item, bytes, errno, "memfd_create");
  if (ftruncate(fd.get(), bytes) != 0) return FromErrno(item, bytes, errno, "ftruncate");
  void* data = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd.get(), 0);
  if (data == MAP_FAILED) return FromErrno(item, bytes, errno, "mmap");
  arena.data_ = static_cast<std::byte*>(data);
  arena.bytes_ = bytes;
  // A wish: machines without huge pages for shared memory say no, and that is fine.
  (void)madvise(data, bytes, MADV_HUGEPAGE);
  if (options.prefault) RETURN_IF_ERROR(Prefault(item, arena.data_, bytes));
  return arena;
}

Arena::Arena(Arena&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}

Arena& Arena::operator=(Arena&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  return *this;
}

Arena::~Arena() {
  if (data_ != nullptr) munmap(data_, bytes_);
}

absl::StatusOr<ArenaUsage> Arena::Usage() const {
  if (bytes_ == 0) return ArenaUsage{};
  std::ifstream in("/proc/self/smaps");
  std::stringstream text;
  text << in.rdbuf();
  if (!in) return absl::UnavailableError("/proc/self/smaps can't be read");
  const uint64_t begin = reinterpret_cast<uint64_t>(data_);
  ArenaUsage usage;
  for (const ArenaMapping& mapping : ParseArenas(text.str())) {
    if (mapping.begin < begin || mapping.begin >= begin + bytes_) continue;
    usage.mapped += mapping.usage.mapped;
    usage.resident += mapping.usage.resident;
  }
  if (usage.mapped == 0) {
    return absl::NotFoundError(absl::StrCat("/proc/self/smaps has no arena at ", absl::Hex(begin)));
  }
  return usage;
}

std::vector<ArenaMapping> ParseArenas(const std::string& smaps) {
  static const std::string kMarker = absl::StrCat("/memfd:", kArenaPrefix);
  std::vector<ArenaMapping> mappings;
  ArenaMapping* current = nullptr;
  std::istringstream in(smaps);
  for (std::string line; std::getline(in, line);) {
    // A mapping's first line is "begin-end perms offset device inode path"; those under it are
    // "Field: value".
    const size_t space = line.find(' ');
    const bool first = space != std::string::npos && space > 0 && line[space - 1] != ':';
    if (first) {
      const size_t marker = line.find(kMarker);
      current = nullptr;
      if (marker == std::string::npos) continue;
      current = &mappings.emplace_back();
      const size_t name = marker + kMarker.size();
      current->item = line.substr(name, line.find(' ', name) - name);
      std::istringstream range(line);
      char dash = 0;
      range >> std::hex >> current->begin >> dash >> current->end;
    } else if (current != nullptr && absl::StartsWith(line, "Size:")) {
      current->usage.mapped = KilobytesOf(line);
    } else if (current != nullptr && absl::StartsWith(line, "Rss:")) {
      current->usage.resident = KilobytesOf(line);
    }
  }
  return mappings;
}

int64_t AvailableMemory() {
  std::ifstream in("/proc/meminfo");
  for (std::string line; std::getline(in, line);) {
    if (absl::StartsWith(line, "MemAvailable:")) return KilobytesOf(line);
  }
  return -1;
}

}  // namespace whalepod
