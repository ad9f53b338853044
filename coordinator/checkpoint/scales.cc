// Checkpoint::CheckScales.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <filesystem>
#include <mutex>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "base/units.h"
#include "coordinator/checkpoint/checkpoint.h"
#include "coordinator/checkpoint/file_io.h"
#include "coordinator/checkpoint/inventory.h"
#include "coordinator/checkpoint/json.h"

namespace whalepod {
namespace {

constexpr unsigned kThreads = 8;
// A grid is read in pieces of this size, so that no file can make us allocate much.
constexpr int64_t kPieceFloats = kMiB / 4;

struct Grid {
  const std::string* name;
  const StoredTensor* stored;
};

absl::Status CheckGrid(int fd, const std::string& path, const Grid& grid,
                       std::vector<float>& buffer) {
  const int64_t total = grid.stored->bytes / 4;
  for (int64_t first = 0; first < total; first += kPieceFloats) {
    const int64_t count = std::min(kPieceFloats, total - first);
    buffer.resize(static_cast<size_t>(count));
    RETURN_IF_ERROR(
        ReadExactly(fd, path, grid.stored->offset + 4 * first, 4 * count, buffer.data()));
    for (int64_t i = 0; i < count; ++i) {
      const float scale = buffer[static_cast<size_t>(i)];
      if (std::isfinite(scale) && scale >= 0) continue;
      const int64_t cols = grid.stored->shape[1];
      return absl::DataLossError(absl::StrCat(
          path, ": tensor ", Quoted(*grid.name), ": expected finite scales of at least 0, found ",
          scale, " at [", (first + i) / cols, ", ", (first + i) % cols, "]"));
    }
  }
  return absl::OkStatus();
}

absl::Status CheckFile(const std::string& path, const std::vector<Grid>& grids) {
  if (grids.empty()) return absl::OkStatus();
  ASSIGN_OR_RETURN(const OpenFile file, OpenForReading(path));
  std::vector<float> buffer;
  for (const Grid& grid : grids) {
    RETURN_IF_ERROR(CheckGrid(file.fd.get(), path, grid, buffer));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status Checkpoint::CheckScales() const {
  if (model.fp8_block_rows() <= 0) return absl::OkStatus();
  std::vector<std::vector<Grid>> grids(files.size());
  for (const auto& [name, stored] : tensors) {
    if (!name.ends_with("_scale_inv") || IsNextnTensor(model, name)) continue;
    grids[stored.file].push_back({&name, &stored});
  }
  for (std::vector<Grid>& of_file : grids) {
    std::sort(of_file.begin(), of_file.end(),
              [](const Grid& a, const Grid& b) { return a.stored->offset < b.stored->offset; });
  }

  // The first error in file order is reported, whichever thread is first.
  std::vector<absl::Status> results(files.size());
  std::atomic<size_t> next{0};
  const auto work = [&] {
    for (size_t file = next++; file < files.size(); file = next++) {
      results[file] = CheckFile((std::filesystem::path(dir) / files[file]).string(), grids[file]);
    }
  };
  std::vector<std::thread> threads;
  const size_t count =
      std::min<size_t>({files.size(), kThreads, std::max(1u, std::thread::hardware_concurrency())});
  for (size_t i = 1; i < count; ++i) threads.emplace_back(work);
  work();
  for (std::thread& thread : threads) thread.join();
  for (const absl::Status& result : results) RETURN_IF_ERROR(result);
  return absl::OkStatus();
}

}  // namespace whalepod
