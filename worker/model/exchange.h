// The exchanges of the forward pass, held against the plan's schedule.
//
// Partial sums go to the owner of each slice of hidden columns, are added there by the tree, and
// the summed slices go to all: the same additions in every layout (docs/numbers.md).
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "base/clock.h"
#include "kernels/ops.h"
#include "whalepod/v1/plan.pb.h"
#include "worker/comm/communicator.h"
#include "worker/model/arena.h"
#include "worker/model/dims.h"

namespace whalepod {

// Who exchanges: the ranks that share this rank's tokens, its experts, or its replica.
enum class Domain { kTp, kMoeTp, kWorld };

// Calls the communicators in the order of the plan's step schedule. Each call is compared with the
// next entry (operation, members, tag, layer); a difference is INTERNAL and names both. Domains of
// one rank exchange nothing and have no entry: callers skip them.
class ScheduledExchange {
 public:
  // `communicators` in the order of part.part().groups(); not owned, as are `part`
  // and `dims`. INVALID_ARGUMENT
  // if their number or sizes are not the plan's.
  static absl::StatusOr<std::unique_ptr<ScheduledExchange>> Create(
      const v1::PlanPart& part, const Dims& dims, std::vector<Communicator*> communicators);

  int size(Domain domain) const;
  // This rank's place in the domain.
  int rank(Domain domain) const;

  void BeginStep(TimePoint deadline);
  // INTERNAL if the schedule has entries that were not called.
  absl::Status EndStep() const;

  // As Communicator's; `layer` is 0 outside the layers.
  absl::Status AllGather(Domain domain, v1::CollectiveTag tag, int64_t layer,
                         absl::Span<const std::byte> mine, absl::Span<const int64_t> bytes,
                         absl::Span<std::byte> all);
  absl::Status AllToAll(Domain domain, v1::CollectiveTag tag, int64_t layer,
                        absl::Span<const absl::Span<const std::byte>> send,
                        absl::Span<const absl::Span<std::byte>> recv);

 private:
  ScheduledExchange(const v1::PlanPart& part, const Dims& dims) : part_(&part), dims_(&dims) {}
  std::vector<uint32_t> RanksOf(Domain domain) const;
  absl::StatusOr<Communicator*> Next(v1::CollectiveOp op, Domain domain, v1::CollectiveTag tag,
                                     int64_t layer);

  const v1::PlanPart* part_;
  const Dims* dims_;
  std::vector<Communicator*> by_group_;  // by index into the plan's groups; null: not a member
  std::vector<uint32_t> ranks_[3];       // by Domain
  int next_ = 0;
  TimePoint deadline_ = kNoDeadline;
};

// Sums of [rows, hidden] partials over the TP group, slice by slice. At tp = 1 the partial is the
// sum and nothing moves.
class SliceExchange {
 public:
  // Buffers live in `arena`.
  SliceExchange(const Dims& dims, Backend* backend, ScheduledExchange* exchange,
                ActivationArena& arena);

  // slice (+)= tree sum over TP ranks of their partials' columns dims.slice.
  //   partial [rows, hidden], slice [rows, dims.slice.size()], dense
  absl::Status ReduceToSlice(v1::CollectiveTag tag, int64_t layer, int64_t rows,
                             const float* partial, float* slice, bool accumulate);
  // h += the slices of all TP ranks.   slice [rows, dims.slice.size()], h [rows, hidden]
  absl::Status AddSlices(v1::CollectiveTag tag, int64_t layer, int64_t rows, const float* slice,
                         float* h);
  // Both: h += tree sum over TP ranks of partial.
  absl::Status AddPartials(v1::CollectiveTag reduce, v1::CollectiveTag gather, int64_t layer,
                           int64_t rows, const float* partial, float* h);

 private:
  const Dims& dims_;
  Backend* backend_;
  ScheduledExchange* exchange_;
  float* packed_ = nullptr;    // [T * hidden]: slices to send, later all summed slices
  float* received_ = nullptr;  // [tp, T, ceil(hidden / tp)]: partials of the own slice
  float* slice_ = nullptr;     // [T, ceil(hidden / tp)]
};

// `count` floats as the bytes that communicators move.
absl::Span<const std::byte> FloatBytes(const float* data, int64_t count);
absl::Span<std::byte> MutableFloatBytes(float* data, int64_t count);

// a[rows, cols] (rows lda apart) to b (rows ldb apart).
void CopyMatrix(int64_t rows, int64_t cols, const float* a, int64_t lda, float* b, int64_t ldb);

}  // namespace whalepod
