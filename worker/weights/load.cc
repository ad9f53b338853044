// Reading weights: the slices of a part are cut into pieces of a few MiB, in the order in which
// they lie in the files, and threads take them one after the other.
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <map>
#include <mutex>
#include <string>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "base/unique_fd.h"
#include "base/units.h"
#include "kernels/packing.h"
#include "worker/weights/slices.h"
#include "worker/weights/weights.h"

namespace whalepod {
namespace {

constexpr int64_t kPieceBytes = 4 * kMiB;

// Rows [row, row + rows) of one batch entry; whole panels where the slice is packed.
struct Piece {
  const Slice* slice = nullptr;
  int64_t entry = 0;
  int64_t row = 0;
  int64_t rows = 0;

  int64_t Bytes() const { return rows * slice->RowBytes(); }
};

int64_t RowsOfPiece(const Slice& slice) {
  if (slice.transform == v1::TRANSFORM_PACK_TRANSPOSED) return slice.rows;
  const int64_t rows = std::max<int64_t>(1, kPieceBytes / slice.RowBytes());
  if (slice.transform == v1::TRANSFORM_COPY) return rows;
  return std::max(kPanelRows, rows / kPanelRows * kPanelRows);
}

std::vector<Piece> CutInPieces(const std::vector<Slice>& slices) {
  std::vector<Piece> pieces;
  for (const Slice& slice : slices) {
    if (slice.Bytes() == 0) continue;
    const int64_t step = RowsOfPiece(slice);
    for (int64_t b = 0; b < slice.batch; ++b) {
      for (int64_t row = 0; row < slice.rows; row += step) {
        pieces.push_back({&slice, b, row, std::min(step, slice.rows - row)});
      }
    }
  }
  const auto place = [](const Piece& p) {
    return std::pair<const std::string&, int64_t>(p.slice->file,
                                                  p.slice->FileOffset(p.entry, p.row));
  };
  std::stable_sort(pieces.begin(), pieces.end(),
                   [&](const Piece& a, const Piece& b) { return place(a) < place(b); });
  return pieces;
}

// Files of one checkpoint folder, opened once.
using Files = std::map<std::string, UniqueFd>;

absl::StatusOr<Files> OpenFiles(const std::string& dir, const std::vector<Slice>& slices) {
  Files files;
  for (const Slice& slice : slices) {
    if (slice.file.empty()) {
      return absl::FailedPreconditionError(
          absl::StrCat("tensor \"", slice.name, "\": the plan is not bound to a checkpoint"));
    }
    UniqueFd& fd = files[slice.file];
    if (fd.valid()) continue;
    const std::string path = absl::StrCat(dir, "/", slice.file);
    fd = UniqueFd(open(path.c_str(), O_RDONLY | O_CLOEXEC));
    if (!fd.valid()) return ErrnoStatus(errno, path);
  }
  return files;
}

// All of one load; threads share it.
class Loader {
 public:
  Loader(std::string dir, const Files& files, std::vector<Piece> pieces, std::byte* arena,
         const std::function<void(int64_t, int64_t)>& progress,
         const std::function<bool()>& cancelled)
      : dir_(std::move(dir)),
        files_(files),
        pieces_(std::move(pieces)),
        arena_(arena),
        progress_(progress),
        cancelled_(cancelled) {
    for (const Piece& piece : pieces_) total_ += piece.Bytes();
  }

  absl::Status Run(int threads) {
    if (progress_) progress_(0, total_);
    const int64_t wanted = std::min<int64_t>(threads, std::ssize(pieces_));
    std::vector<std::thread> helpers;
    for (int64_t i = 1; i < wanted; ++i) helpers.emplace_back([this] { Work(); });
    Work();
    for (std::thread& helper : helpers) helper.join();
    RETURN_IF_ERROR(error_);
    if (done_ != total_) {
      return absl::InternalError(
          absl::StrCat("read ", done_.load(), " bytes of a plan of ", total_));
    }
    return absl::OkStatus();
  }

 private:
  void Work() {
    std::vector<std::byte> buffer;
    for (;;) {
      const int64_t i = next_.fetch_add(1);
      if (i >= std::ssize(pieces_) || failed_) return;
      absl::Status status = cancelled_ && cancelled_() ? absl::AbortedError("loading was cancelled")
                                                       : Load(pieces_[i], buffer);
      if (!status.ok()) {
        std::lock_guard<std::mutex> lock(mu_);
        if (error_.ok()) error_ = std::move(status);
        failed_ = true;
        return;
      }
      if (progress_) progress_(done_.load(), total_);
    }
  }

  absl::Status Load(const Piece& piece, std::vector<std::byte>& buffer) {
    const Slice& s = *piece.slice;
    std::byte* dest = arena_ + s.dest_offset;
    if (s.transform == v1::TRANSFORM_COPY) {
      return Read(piece, dest + (piece.entry * s.rows + piece.row) * s.RowBytes());
    }
    buffer.resize(std::max<size_t>(buffer.size(), piece.Bytes()));
    RETURN_IF_ERROR(Read(piece, buffer.data()));
    dest += piece.entry * s.PackedEntryBytes();
    if (s.transform == v1::TRANSFORM_PACK_TRANSPOSED) {
      PackTransposed(s.dtype, buffer.data(), s.cols, s.N(), s.K(), dest);
    } else {
      PackRows(s.dtype, buffer.data(), s.cols, piece.row, piece.rows, s.N(), s.K(), dest);
    }
    return absl::OkStatus();
  }

  // The piece's rows, one after the other, into `to`: a pread for each stretch without a gap, and
  // never a byte between stretches.
  absl::Status Read(const Piece& piece, std::byte* to) {
    const Slice& s = *piece.slice;
    const int fd = files_.at(s.file).get();
    for (int64_t row = piece.row; row < piece.row + piece.rows;) {
      const int64_t rows = std::min(s.RowsTogether(piece.entry, row), piece.row + piece.rows - row);
      RETURN_IF_ERROR(ReadAt(s, fd, s.FileOffset(piece.entry, row), rows * s.RowBytes(), to));
      to += rows * s.RowBytes();
      row += rows;
    }
    return absl::OkStatus();
  }

  absl::Status ReadAt(const Slice& s, int fd, int64_t offset, int64_t bytes, std::byte* to) {
    for (int64_t got = 0; got < bytes;) {
      const ssize_t n = pread(fd, to + got, bytes - got, offset + got);
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) return ErrnoStatus(errno, Where(s));
      if (n == 0) {
        return absl::DataLossError(absl::StrCat(Where(s), ": expected ", bytes, " bytes at ",
                                                offset, ", the file ends after ", got));
      }
      got += n;
      done_ += n;
    }
    return absl::OkStatus();
  }

  std::string Where(const Slice& s) const {
    return absl::StrCat(dir_, "/", s.file, ": tensor \"", s.name, "\"");
  }

  const std::string dir_;
  const Files& files_;
  const std::vector<Piece> pieces_;
  std::byte* const arena_;
  const std::function<void(int64_t, int64_t)>& progress_;
  const std::function<bool()>& cancelled_;
  int64_t total_ = 0;
  std::atomic<int64_t> next_{0};
  std::atomic<int64_t> done_{0};
  std::atomic<bool> failed_{false};
  std::mutex mu_;
  absl::Status error_;  // the first; guarded by mu_ until the threads are joined
};

}  // namespace

absl::Status LoadWeights(const v1::PlanPart& part, void* arena, int64_t arena_bytes, int threads,
                         const std::function<void(int64_t, int64_t)>& progress,
                         const std::function<bool()>& cancelled) {
  ASSIGN_OR_RETURN(const std::vector<Slice> slices, ReadSlices(part, arena_bytes));
  ASSIGN_OR_RETURN(const Files files, OpenFiles(part.header().checkpoint_dir(), slices));
  Loader loader(part.header().checkpoint_dir(), files, CutInPieces(slices),
                static_cast<std::byte*>(arena), progress, cancelled);
  return loader.Run(std::max(1, threads));
}

}  // namespace whalepod
