#include "worker/model/exchange.h"

#include <algorithm>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/check.h"
#include "base/status.h"

namespace whalepod {
namespace {

std::string Describe(int op, int tag, int64_t layer, const std::vector<uint32_t>& ranks) {
  return absl::StrCat(v1::CollectiveOp_Name(op), " of ", v1::CollectiveTag_Name(tag), ", layer ",
                      layer, ", ranks {", absl::StrJoin(ranks, ","), "}");
}

}  // namespace

absl::Span<const std::byte> FloatBytes(const float* data, int64_t count) {
  return {reinterpret_cast<const std::byte*>(data), static_cast<size_t>(count) * sizeof(float)};
}

absl::Span<std::byte> MutableFloatBytes(float* data, int64_t count) {
  return {reinterpret_cast<std::byte*>(data), static_cast<size_t>(count) * sizeof(float)};
}

void CopyMatrix(int64_t rows, int64_t cols, const float* a, int64_t lda, float* b, int64_t ldb) {
  for (int64_t r = 0; r < rows; ++r) {
    std::copy_n(a + r * lda, cols, b + r * ldb);  // not memcpy: without columns both may be null
  }
}

absl::StatusOr<std::unique_ptr<ScheduledExchange>> ScheduledExchange::Create(
    const v1::PlanPart& part, const Dims& dims, std::vector<Communicator*> communicators) {
  auto exchange = std::unique_ptr<ScheduledExchange>(new ScheduledExchange(part, dims));
  const auto& groups = part.part().groups();
  const bool alone = dims.tp * dims.dp == 1;
  if (!(alone && communicators.empty()) &&
      communicators.size() != static_cast<size_t>(groups.size())) {
    return absl::InvalidArgumentError(absl::StrCat("the plan has ", groups.size(),
                                                   " groups for this rank, it got ",
                                                   communicators.size(), " communicators"));
  }
  exchange->by_group_.resize(part.header().groups_size(), nullptr);
  for (size_t i = 0; i < communicators.size(); ++i) {
    const v1::Group& group = part.header().groups(groups[i]);
    if (communicators[i]->size() != group.ranks_size()) {
      return absl::InvalidArgumentError(
          absl::StrCat("group ", group.name(), " has ", group.ranks_size(),
                       " ranks, its communicator ", communicators[i]->size()));
    }
    exchange->by_group_[groups[i]] = communicators[i];
  }
  for (Domain domain : {Domain::kTp, Domain::kMoeTp, Domain::kWorld}) {
    exchange->ranks_[static_cast<int>(domain)] = exchange->RanksOf(domain);
  }
  return exchange;
}

int ScheduledExchange::size(Domain domain) const {
  return domain == Domain::kTp      ? dims_->tp
         : domain == Domain::kMoeTp ? dims_->moe_tp
                                    : dims_->dp * dims_->tp;
}

int ScheduledExchange::rank(Domain domain) const {
  return domain == Domain::kTp      ? dims_->at.tp
         : domain == Domain::kMoeTp ? dims_->at.moe_tp
                                    : dims_->at.dp * dims_->tp + dims_->at.tp;
}

std::vector<uint32_t> ScheduledExchange::RanksOf(Domain domain) const {
  const int first = dims_->first_rank + (domain == Domain::kTp      ? dims_->at.dp * dims_->tp
                                         : domain == Domain::kMoeTp ? dims_->at.ep * dims_->moe_tp
                                                                    : 0);
  std::vector<uint32_t> ranks(size(domain));
  for (size_t i = 0; i < ranks.size(); ++i) ranks[i] = first + static_cast<uint32_t>(i);
  return ranks;
}

void ScheduledExchange::BeginStep(TimePoint deadline) {
  next_ = 0;
  deadline_ = deadline;
}

absl::Status ScheduledExchange::EndStep() const {
  const v1::StepSchedule& schedule = part_->part().schedule();
  if (next_ == schedule.op_size()) return absl::OkStatus();
  const auto& ranks = part_->header().groups(schedule.group(next_)).ranks();
  return absl::InternalError(
      absl::StrCat("step schedule: the forward ended after ", next_, " of ", schedule.op_size(),
                   " collectives; next would be ",
                   Describe(schedule.op(next_), schedule.tag(next_), schedule.layer(next_),
                            {ranks.begin(), ranks.end()})));
}

absl::StatusOr<Communicator*> ScheduledExchange::Next(v1::CollectiveOp op, Domain domain,
                                                      v1::CollectiveTag tag, int64_t layer) {
  const v1::StepSchedule& schedule = part_->part().schedule();
  const std::vector<uint32_t>& ranks = ranks_[static_cast<int>(domain)];
  CHECK_GT(ranks.size(), 1u);
  if (next_ >= schedule.op_size()) {
    return absl::InternalError(absl::StrCat("step schedule: ends after ", next_,
                                            " collectives, the forward asks for ",
                                            Describe(op, tag, layer, ranks)));
  }
  const v1::Group& group = part_->header().groups(schedule.group(next_));
  const std::vector<uint32_t> planned(group.ranks().begin(), group.ranks().end());
  Communicator* communicator = by_group_[schedule.group(next_)];
  if (static_cast<int>(schedule.op(next_)) != op || static_cast<int>(schedule.tag(next_)) != tag ||
      static_cast<int64_t>(schedule.layer(next_)) != layer || planned != ranks ||
      communicator == nullptr) {
    return absl::InternalError(absl::StrCat(
        "step schedule: entry ", next_, " is ",
        Describe(schedule.op(next_), schedule.tag(next_), schedule.layer(next_), planned),
        "; the forward asks for ", Describe(op, tag, layer, ranks)));
  }
  ++next_;
  return communicator;
}

absl::Status ScheduledExchange::AllGather(Domain domain, v1::CollectiveTag tag, int64_t layer,
                                          absl::Span<const std::byte> mine,
                                          absl::Span<const int64_t> bytes,
                                          absl::Span<std::byte> all) {
  ASSIGN_OR_RETURN(Communicator * communicator,
                   Next(v1::COLLECTIVE_OP_ALL_GATHER, domain, tag, layer));
  return communicator->AllGather(mine, bytes, all, deadline_);
}

absl::Status ScheduledExchange::AllToAll(Domain domain, v1::CollectiveTag tag, int64_t layer,
                                         absl::Span<const absl::Span<const std::byte>> send,
                                         absl::Span<const absl::Span<std::byte>> recv) {
  ASSIGN_OR_RETURN(Communicator * communicator,
                   Next(v1::COLLECTIVE_OP_ALL_TO_ALL, domain, tag, layer));
  return communicator->AllToAll(send, recv, deadline_);
}

SliceExchange::SliceExchange(const Dims& dims, Backend* backend, ScheduledExchange* exchange,
                             ActivationArena& arena)
    : dims_(dims), backend_(backend), exchange_(exchange) {
  if (dims.tp == 1) return;
  const int64_t widest = dims.SliceOf(0).size();
  packed_ = arena.Take<float>(dims.max_tokens * dims.hidden);
  received_ = arena.Take<float>(dims.tp * dims.max_tokens * widest);
  slice_ = arena.Take<float>(dims.max_tokens * widest);
}

absl::Status SliceExchange::ReduceToSlice(v1::CollectiveTag tag, int64_t layer, int64_t rows,
                                          const float* partial, float* slice, bool accumulate) {
  const int64_t width = dims_.slice.size();
  std::vector<const float*> partials(dims_.tp);
  if (dims_.tp == 1) {
    partials[0] = partial;
  } else {
    std::vector<absl::Span<const std::byte>> send(dims_.tp);
    std::vector<absl::Span<std::byte>> recv(dims_.tp);
    float* to = packed_;
    for (int t = 0; t < dims_.tp; ++t) {
      const Range columns = dims_.SliceOf(t);
      CopyMatrix(rows, columns.size(), partial + columns.begin, dims_.hidden, to, columns.size());
      send[t] = FloatBytes(to, rows * columns.size());
      to += rows * columns.size();
      recv[t] = MutableFloatBytes(received_ + t * rows * width, rows * width);
      partials[t] = received_ + t * rows * width;
    }
    RETURN_IF_ERROR(exchange_->AllToAll(Domain::kTp, tag, layer, send, recv));
  }
  return backend_->TreeAdd({.rows = rows,
                            .cols = width,
                            .partials = partials,
                            .ldp = width,
                            .out = slice,
                            .ldo = width,
                            .accumulate = accumulate});
}

absl::Status SliceExchange::AddSlices(v1::CollectiveTag tag, int64_t layer, int64_t rows,
                                      const float* slice, float* h) {
  const float* slices = slice;
  if (dims_.tp > 1) {
    std::vector<int64_t> bytes(dims_.tp);
    for (int t = 0; t < dims_.tp; ++t) {
      bytes[t] = rows * dims_.SliceOf(t).size() * static_cast<int64_t>(sizeof(float));
    }
    RETURN_IF_ERROR(exchange_->AllGather(Domain::kTp, tag, layer,
                                         FloatBytes(slice, rows * dims_.slice.size()), bytes,
                                         MutableFloatBytes(packed_, rows * dims_.hidden)));
    slices = packed_;
  }
  for (int t = 0; t < dims_.tp; ++t) {
    const Range columns = dims_.SliceOf(t);
    RETURN_IF_ERROR(backend_->TreeAdd({.rows = rows,
                                       .cols = columns.size(),
                                       .partials = {slices},
                                       .ldp = columns.size(),
                                       .out = h + columns.begin,
                                       .ldo = dims_.hidden,
                                       .accumulate = true}));
    slices += rows * columns.size();
  }
  return absl::OkStatus();
}

absl::Status SliceExchange::AddPartials(v1::CollectiveTag reduce, v1::CollectiveTag gather,
                                        int64_t layer, int64_t rows, const float* partial,
                                        float* h) {
  if (dims_.tp == 1) return AddSlices(gather, layer, rows, partial, h);
  RETURN_IF_ERROR(ReduceToSlice(reduce, layer, rows, partial, slice_, /*accumulate=*/false));
  return AddSlices(gather, layer, rows, slice_, h);
}

}  // namespace whalepod
