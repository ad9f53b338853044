#include "worker/comm/group.h"

#include <algorithm>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace whalepod {

const char* OpName(OpKind kind) {
  switch (kind) {
    case OpKind::kAllGather:
      return "AllGather";
    case OpKind::kAllToAll:
      return "AllToAll";
    case OpKind::kBarrier:
      return "Barrier";
    case OpKind::kNone:
      break;
  }
  return "no operation";
}

std::string Group::Name(int place) const { return absl::StrCat("rank ", ranks[place]); }

std::string Group::Names(absl::Span<const int> places) const {
  std::vector<int> global;
  for (int place : places) global.push_back(ranks[place]);
  return absl::StrCat(places.size() == 1 ? "rank " : "ranks ", absl::StrJoin(global, ", "));
}

absl::StatusOr<Group> MakeGroup(const CommunicatorFactory::GroupSpec& spec, int global_rank,
                                int world_size) {
  Group group;
  group.name = spec.name;
  group.ranks = spec.ranks;
  group.rank = -1;
  if (spec.max_bytes < 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("group ", spec.name, ": max_bytes is ", spec.max_bytes));
  }
  std::vector<bool> seen(world_size, false);
  for (int place = 0; place < group.size(); ++place) {
    int rank = group.ranks[place];
    if (rank < 0 || rank >= world_size) {
      return absl::InvalidArgumentError(
          absl::StrCat("group ", spec.name, " names rank ", rank, ", the world has ", world_size));
    }
    if (seen[rank]) {
      return absl::InvalidArgumentError(
          absl::StrCat("group ", spec.name, " names rank ", rank, " twice"));
    }
    seen[rank] = true;
    if (rank == global_rank) group.rank = place;
  }
  if (group.rank < 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        "group ", spec.name, " (", absl::StrJoin(spec.ranks, ", "), ") lacks rank ", global_rank));
  }
  return group;
}

absl::Status CheckAllGather(const Group& group, absl::Span<const std::byte> mine,
                            absl::Span<const int64_t> bytes, absl::Span<std::byte> all) {
  if (static_cast<int>(bytes.size()) != group.size()) {
    return absl::InvalidArgumentError(absl::StrCat("AllGather in group ", group.name, ": ",
                                                   bytes.size(), " sizes for ", group.size(),
                                                   " ranks"));
  }
  int64_t sum = 0;
  for (int place = 0; place < group.size(); ++place) {
    if (bytes[place] < 0) {
      return absl::InvalidArgumentError(absl::StrCat("AllGather in group ", group.name, ": ",
                                                     group.Name(place), " has ", bytes[place],
                                                     " bytes"));
    }
    sum += bytes[place];
  }
  if (static_cast<int64_t>(mine.size()) != bytes[group.rank]) {
    return absl::InvalidArgumentError(absl::StrCat("AllGather in group ", group.name, ": ",
                                                   group.Name(group.rank), " gives ", mine.size(),
                                                   " bytes, announced ", bytes[group.rank]));
  }
  if (static_cast<int64_t>(all.size()) != sum) {
    return absl::InvalidArgumentError(absl::StrCat("AllGather in group ", group.name,
                                                   ": output of ", all.size(),
                                                   " bytes, the ranks' sizes add up to ", sum));
  }
  return absl::OkStatus();
}

absl::Status CheckAllToAll(const Group& group, absl::Span<const absl::Span<const std::byte>> send,
                           absl::Span<const absl::Span<std::byte>> recv) {
  if (static_cast<int>(send.size()) != group.size() ||
      static_cast<int>(recv.size()) != group.size()) {
    return absl::InvalidArgumentError(absl::StrCat("AllToAll in group ", group.name, ": ",
                                                   send.size(), " sends and ", recv.size(),
                                                   " receives for ", group.size(), " ranks"));
  }
  if (send[group.rank].size() != recv[group.rank].size()) {
    return SizeMismatch(group, OpKind::kAllToAll, group.rank, send[group.rank].size(),
                        recv[group.rank].size());
  }
  return absl::OkStatus();
}

absl::Status KindMismatch(const Group& group, OpKind mine, int other, OpKind theirs) {
  return absl::InvalidArgumentError(absl::StrCat("group ", group.name, ": ", group.Name(group.rank),
                                                 " calls ", OpName(mine), ", ", group.Name(other),
                                                 " calls ", OpName(theirs)));
}

absl::Status SizeMismatch(const Group& group, OpKind kind, int sender, int64_t sends,
                          int64_t expected) {
  return absl::InvalidArgumentError(absl::StrCat(OpName(kind), " in group ", group.name, ": ",
                                                 group.Name(sender), " sends ", sends, " bytes, ",
                                                 group.Name(group.rank), " expects ", expected));
}

absl::Status Missing(const Group& group, OpKind kind, absl::Span<const int> places) {
  return absl::DeadlineExceededError(absl::StrCat(OpName(kind), " in group ", group.name, ": ",
                                                  group.Names(places), " did not come in time"));
}

void CopyBytes(std::byte* to, const std::byte* from, size_t bytes) {
  if (bytes > 0 && to != from) std::memcpy(to, from, bytes);
}

absl::Status FirstError::Set(const absl::Status& error) {
  std::lock_guard<std::mutex> lock(mu_);
  if (error_.ok()) error_ = error;
  failed_.store(!error_.ok(), std::memory_order_release);
  return error_;
}

absl::Status FirstError::Get() const {
  if (!failed_.load(std::memory_order_acquire)) return absl::OkStatus();
  std::lock_guard<std::mutex> lock(mu_);
  return error_;
}

}  // namespace whalepod
