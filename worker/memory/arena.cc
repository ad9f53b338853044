#include "worker/memory/arena.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <fstream>
#include <sstream>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/available_memory.h"
#include "base/status.h"
#include "base/unique_fd.h"
#include "base/units.h"

namespace whalepod {
namespace {

// Older headers lack it; the kernel has it since 5.14.
constexpr int kMadvPopulateWrite = 23;
constexpr int64_t kHugePage = 2 * kMiB;

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

// Whole pages that hold `bytes`.
int64_t WholePages(int64_t bytes) {
  const int64_t page = sysconf(_SC_PAGESIZE);
  return (bytes + page - 1) / page * page;
}

// [name page][arena][guard page]. The arena is anonymous memory, which gets huge pages where files
// in memory mostly don't: reading weights from small pages costs a quarter of the bandwidth. A file
// mapping gives the name. Pages without access on both sides keep other mappings from being merged
// with the arena. Returns the arena's place; see Arena::~Arena for the whole.
absl::StatusOr<std::byte*> MapNamed(const std::string& item, int64_t bytes) {
  const int64_t page = sysconf(_SC_PAGESIZE);
  const UniqueFd name(memfd_create(absl::StrCat(kArenaPrefix, item).c_str(), MFD_CLOEXEC));
  if (!name.valid()) return FromErrno(item, bytes, errno, "memfd_create");
  if (ftruncate(name.get(), page) != 0) return FromErrno(item, bytes, errno, "ftruncate");
  const int64_t arena = WholePages(bytes);
  const int64_t reserved = page + kHugePage + arena + page;
  void* begin = mmap(nullptr, reserved, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (begin == MAP_FAILED) return FromErrno(item, bytes, errno, "mmap");
  std::byte* const first = static_cast<std::byte*>(begin);
  const uint64_t at = reinterpret_cast<uint64_t>(first) + page + kHugePage - 1;
  std::byte* const data = reinterpret_cast<std::byte*>(at / kHugePage * kHugePage);
  std::byte* const end = data + arena + page;
  if (data - page > first) munmap(first, data - page - first);
  if (end < first + reserved) munmap(end, first + reserved - end);
  if (mmap(data - page, page, PROT_NONE, MAP_PRIVATE | MAP_FIXED, name.get(), 0) == MAP_FAILED ||
      mprotect(data, arena, PROT_READ | PROT_WRITE) != 0) {
    const int error = errno;
    munmap(data - page, page + arena + page);
    return FromErrno(item, bytes, error, "mmap");
  }
  return data;
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
  const absl::StatusOr<std::byte*> data = MapNamed(item, bytes);
  if (!data.ok()) return data.status();
  arena.data_ = *data;
  arena.bytes_ = bytes;
  // A wish: machines without huge pages say no, and that is fine.
  (void)madvise(arena.data_, bytes, MADV_HUGEPAGE);
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
  if (data_ == nullptr) return;
  const int64_t page = sysconf(_SC_PAGESIZE);
  munmap(data_ - page, page + WholePages(bytes_) + page);
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
  std::string item;       // of the name page just read
  uint64_t name_end = 0;  // where its arena begins
  std::istringstream in(smaps);
  for (std::string line; std::getline(in, line);) {
    // A mapping's first line is "begin-end perms offset device inode path"; those under it are
    // "Field: value".
    const size_t space = line.find(' ');
    const bool first = space != std::string::npos && space > 0 && line[space - 1] != ':';
    if (first) {
      ArenaMapping mapping;
      std::istringstream range(line);
      char dash = 0;
      range >> std::hex >> mapping.begin >> dash >> mapping.end;
      current = nullptr;
      const size_t marker = line.find(kMarker);
      if (marker != std::string::npos) {
        const size_t name = marker + kMarker.size();
        item = line.substr(name, line.find(' ', name) - name);
        name_end = mapping.end;
      } else if (!item.empty() && mapping.begin == name_end) {
        mapping.item = std::exchange(item, "");
        current = &mappings.emplace_back(std::move(mapping));
      }
    } else if (current != nullptr && absl::StartsWith(line, "Size:")) {
      current->usage.mapped = KilobytesOf(line);
    } else if (current != nullptr && absl::StartsWith(line, "Rss:")) {
      current->usage.resident = KilobytesOf(line);
    }
  }
  return mappings;
}

}  // namespace whalepod
