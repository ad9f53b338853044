#include "proto/plan/hash.h"

#include <openssl/evp.h>

#include <algorithm>
#include <memory>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "google/protobuf/io/coded_stream.h"
#include "google/protobuf/io/zero_copy_stream_impl_lite.h"

namespace whalepod {
namespace {

// Kept out of hashes of other things.
constexpr char kPartDomain[] = "whalepod.plan.part.v1\n";
constexpr char kRootDomain[] = "whalepod.plan.root.v1\n";

class Hasher {
 public:
  Hasher() : context_(EVP_MD_CTX_new(), EVP_MD_CTX_free) {
    CHECK(EVP_DigestInit_ex(context_.get(), EVP_sha256(), nullptr) == 1);
  }
  void Add(const std::string& data) {
    CHECK(EVP_DigestUpdate(context_.get(), data.data(), data.size()) == 1);
  }
  std::string Finish() {
    std::string digest(32, '\0');
    unsigned int size = 0;
    CHECK(EVP_DigestFinal_ex(context_.get(), reinterpret_cast<unsigned char*>(digest.data()),
                             &size) == 1);
    CHECK_EQ(size, 32u);
    return digest;
  }

 private:
  std::unique_ptr<EVP_MD_CTX, decltype(&EVP_MD_CTX_free)> context_;
};

// Hash of a part whose `hash` is empty.
std::string HashOfCleared(const v1::RankPart& part) {
  Hasher hasher;
  hasher.Add(kPartDomain);
  hasher.Add(Deterministic(part));
  return hasher.Finish();
}

std::string RootOfCleared(const v1::ShardingPlan& header,
                          const std::vector<std::string>& rank_hashes) {
  Hasher hasher;
  hasher.Add(kRootDomain);
  hasher.Add(Sha256(Deterministic(header)));
  for (const std::string& hash : rank_hashes) hasher.Add(hash);
  return hasher.Finish();
}

}  // namespace

std::string Deterministic(const google::protobuf::MessageLite& message) {
  std::string bytes;
  {
    google::protobuf::io::StringOutputStream stream(&bytes);
    google::protobuf::io::CodedOutputStream coded(&stream);
    coded.SetSerializationDeterministic(true);
    CHECK(message.SerializeToCodedStream(&coded));
  }
  return bytes;
}

std::string Sha256(const std::string& data) {
  Hasher hasher;
  hasher.Add(data);
  return hasher.Finish();
}

std::string HexOf(const std::string& bytes) { return absl::BytesToHexString(bytes); }

v1::ShardingPlan HeaderOf(const v1::ShardingPlan& plan) {
  v1::ShardingPlan header;
  header.set_format_version(plan.format_version());
  *header.mutable_model() = plan.model();
  *header.mutable_layout() = plan.layout();
  *header.mutable_runtime() = plan.runtime();
  *header.mutable_hosts() = plan.hosts();
  *header.mutable_groups() = plan.groups();
  *header.mutable_strings() = plan.strings();
  *header.mutable_skipped() = plan.skipped();
  header.set_bound(plan.bound());
  header.set_checkpoint_dir(plan.checkpoint_dir());
  header.set_total_parameters(plan.total_parameters());
  header.set_total_tensors(plan.total_tensors());
  header.set_total_bytes(plan.total_bytes());
  header.set_hash(plan.hash());
  return header;
}

std::string PartHash(const v1::RankPart& part) {
  if (part.hash().empty()) return HashOfCleared(part);
  v1::RankPart cleared = part;
  cleared.clear_hash();
  return HashOfCleared(cleared);
}

std::string PlanRoot(const v1::ShardingPlan& header, const std::vector<std::string>& rank_hashes) {
  v1::ShardingPlan cleared = HeaderOf(header);
  cleared.clear_hash();
  return RootOfCleared(cleared, rank_hashes);
}

void HashPlan(v1::ShardingPlan* plan) {
  std::vector<std::string> hashes;
  hashes.reserve(static_cast<size_t>(plan->ranks_size()));
  for (v1::RankPart& part : *plan->mutable_ranks()) {
    part.clear_hash();
    part.set_hash(HashOfCleared(part));
    hashes.push_back(part.hash());
  }
  plan->set_hash(PlanRoot(*plan, hashes));
}

v1::PlanPart MakePlanPart(const v1::ShardingPlan& plan, int rank) {
  CHECK(rank >= 0 && rank < plan.ranks_size());
  v1::PlanPart part;
  *part.mutable_header() = HeaderOf(plan);
  *part.mutable_part() = plan.ranks(rank);
  for (const v1::RankPart& other : plan.ranks()) part.add_rank_hashes(other.hash());
  return part;
}

absl::Status CheckPlanPart(const v1::PlanPart& part) {
  if (part.header().ranks_size() != 0) {
    return absl::DataLossError("the plan part's header carries ranks");
  }
  const std::string own = PartHash(part.part());
  if (own != part.part().hash()) {
    return absl::DataLossError(absl::StrCat("rank ", part.part().rank(), "'s part has hash ",
                                            HexOf(own), ", it says ", HexOf(part.part().hash())));
  }
  const auto rank = part.part().rank();
  if (rank >= static_cast<uint32_t>(part.rank_hashes_size()) ||
      part.rank_hashes(static_cast<int>(rank)) != own) {
    return absl::DataLossError(absl::StrCat("rank ", rank, "'s part is not among the plan's ",
                                            part.rank_hashes_size(), " parts"));
  }
  const std::vector<std::string> hashes(part.rank_hashes().begin(), part.rank_hashes().end());
  const std::string root = PlanRoot(part.header(), hashes);
  if (root != part.header().hash()) {
    return absl::DataLossError(absl::StrCat("the plan's root is ", HexOf(root), ", it says ",
                                            HexOf(part.header().hash())));
  }
  return absl::OkStatus();
}

}  // namespace whalepod
