// Validation and dispatch of every op; see kernels/ops.h.
#include "kernels/ops.h"

#include "absl/strings/str_cat.h"
#include "base/status.h"

namespace whalepod {
namespace {

// Keeps the first thing that is wrong with an op's Args.
class Checker {
 public:
  explicit Checker(const char* op) : op_(op) {}

  Checker& AtLeast(absl::string_view field, int64_t found, int64_t least) {
    if (found < least) Fail(field, absl::StrCat("at least ", least), found);
    return *this;
  }
  Checker& AtMost(absl::string_view field, int64_t found, int64_t most) {
    if (found > most) Fail(field, absl::StrCat("at most ", most), found);
    return *this;
  }
  Checker& Equal(absl::string_view field, int64_t found, int64_t expected) {
    if (found != expected) Fail(field, absl::StrCat(expected), found);
    return *this;
  }
  Checker& MultipleOf(absl::string_view field, int64_t found, int64_t factor) {
    if (found % factor != 0) Fail(field, absl::StrCat("a multiple of ", factor), found);
    return *this;
  }
  Checker& Pointer(absl::string_view field, const void* pointer) {
    if (pointer == nullptr) Fail(field, "a pointer", "null");
    return *this;
  }
  // BF16 or F32.
  Checker& ActivationType(absl::string_view field, DType type) {
    if (type != DType::kF32 && type != DType::kBF16) Fail(field, "F32 or BF16", TypeName(type));
    return *this;
  }
  // What a table or vector of weights may be (no block scales).
  Checker& PlainType(absl::string_view field, DType type) {
    if (type != DType::kF32 && type != DType::kBF16 && type != DType::kF16) {
      Fail(field, "F32, BF16 or F16", TypeName(type));
    }
    return *this;
  }
  template <typename Found>
  void Fail(absl::string_view field, absl::string_view expected, const Found& found) {
    if (!status_.ok()) return;
    status_ = absl::InvalidArgumentError(
        absl::StrCat(op_, ": ", field, ": expected ", expected, ", found ", found));
  }
  const absl::Status& status() const { return status_; }

 private:
  static std::string TypeName(DType type) {
    return absl::StrCat(Name(type), " (", static_cast<int>(type), ")");
  }

  const char* op_;
  absl::Status status_;
};

bool ScalesAreValid(const PackedMatrix& w) {
  return w.scales != nullptr && w.block_n >= 1 && w.block_k >= 1 && w.phase_n >= 0 &&
         w.phase_n < w.block_n && w.phase_k >= 0 && w.phase_k < w.block_k;
}

// Says what is wrong with w[i]; slower than asking whether anything is.
void ExplainMatrix(Checker& check, absl::string_view list, int64_t i, const PackedMatrix& w,
                   const PackedMatrix& first) {
  const auto field = [&](absl::string_view name) { return absl::StrCat(list, "[", i, "].", name); };
  if (w.dtype != first.dtype) check.Fail(field("dtype"), Name(first.dtype), Name(w.dtype));
  check.Equal(field("n"), w.n, first.n).Equal(field("k"), w.k, first.k);
  check.Pointer(field("data"), w.data);
  if (w.dtype != DType::kF8E4M3) return;
  check.Pointer(field("scales"), w.scales);
  check.AtLeast(field("block_n"), w.block_n, 1).AtLeast(field("block_k"), w.block_k, 1);
  check.AtLeast(field("phase_n"), w.phase_n, 0).AtMost(field("phase_n"), w.phase_n, w.block_n - 1);
  check.AtLeast(field("phase_k"), w.phase_k, 0).AtMost(field("phase_k"), w.phase_k, w.block_k - 1);
}

// The matrices of a product, all of the first one's shape.
void CheckMatrices(Checker& check, absl::string_view list, absl::Span<const PackedMatrix> w) {
  if (w.empty()) check.Fail(list, "at least 1 matrix", 0);
  if (!check.status().ok()) return;
  const PackedMatrix& first = w[0];
  if (absl::string_view(Name(first.dtype)) == "?") {
    check.Fail(list, "a known dtype", static_cast<int>(first.dtype));
  }
  if (first.n < 0) check.Fail(absl::StrCat(list, "[0].n"), "at least 0", first.n);
  if (first.k < 1) check.Fail(absl::StrCat(list, "[0].k"), "at least 1", first.k);
  for (size_t i = 0; i < w.size() && check.status().ok(); ++i) {
    const bool valid = w[i].dtype == first.dtype && w[i].n == first.n && w[i].k == first.k &&
                       (w[i].data != nullptr || first.n == 0) &&
                       (w[i].dtype != DType::kF8E4M3 || ScalesAreValid(w[i]));
    if (!valid) ExplainMatrix(check, list, static_cast<int64_t>(i), w[i], first);
  }
}

// W8A8: quantised activations need FP8 weights and one scale per group.
void CheckActivationScales(Checker& check, const PackedMatrix& w, DType a_type, int64_t lda_scales,
                           int64_t segment_k) {
  if (w.dtype != DType::kF8E4M3) check.Fail("a_scales", "F8_E4M3 weights", Name(w.dtype));
  if (a_type != DType::kBF16) check.Fail("a_type with a_scales", "BF16", Name(a_type));
  if (!check.status().ok()) return;
  check.AtLeast("lda_scales", lda_scales, QuantizeGroups(w.k, w.block_k, w.phase_k, segment_k));
}

void CheckCache(Checker& check, const LatentCache& cache) {
  check.Pointer("cache.base", cache.base).ActivationType("cache.type", cache.type);
  check.AtLeast("cache.block_tokens", cache.block_tokens, 1)
      .AtLeast("cache.width", cache.width, 1)
      .AtLeast("cache.blocks", cache.blocks, 1)
      .AtLeast("cache.block_stride", cache.block_stride, cache.block_tokens * cache.width);
}

// The blocks that hold positions [0, positions).
void CheckBlocks(Checker& check, const int32_t* table, int64_t positions,
                 const LatentCache& cache) {
  check.Pointer("block_table", table);
  if (!check.status().ok()) return;
  const int64_t blocks = (positions + cache.block_tokens - 1) / cache.block_tokens;
  for (int64_t i = 0; i < blocks && check.status().ok(); ++i) {
    check.AtLeast("block_table entry", table[i], 0)
        .AtMost("block_table entry", table[i], cache.blocks - 1);
  }
}

}  // namespace

int64_t QuantizeGroups(int64_t k, int32_t block_k, int32_t phase_k, int64_t segment_k) {
  if (segment_k <= 0 || segment_k > k) segment_k = k;
  int64_t groups = 0;
  for (int64_t begin = 0; begin < k; begin += segment_k) {
    const int64_t end = begin + segment_k < k ? begin + segment_k : k;
    groups += (end - 1 + phase_k) / block_k - (begin + phase_k) / block_k + 1;
  }
  return groups;
}

absl::Status Backend::Embed(const EmbedArgs& args) {
  Checker check("Embed");
  check.AtLeast("tokens", args.tokens, 0).AtLeast("rows", args.rows, 0);
  check.AtLeast("hidden", args.hidden, 0).AtLeast("vocab0", args.vocab0, 0);
  check.PlainType("table_type", args.table_type);
  RETURN_IF_ERROR(check.status());
  if (args.tokens == 0 || args.hidden == 0 || args.rows == 0) return absl::OkStatus();
  check.Pointer("ids", args.ids).Pointer("table", args.table).Pointer("out", args.out);
  RETURN_IF_ERROR(check.status());
  return DoEmbed(args);
}

absl::Status Backend::RmsNorm(const RmsNormArgs& args) {
  Checker check("RmsNorm");
  check.AtLeast("tokens", args.tokens, 0).AtLeast("width", args.width, 0);
  check.PlainType("weight_type", args.weight_type).ActivationType("out_type", args.out_type);
  RETURN_IF_ERROR(check.status());
  if (args.tokens == 0 || args.width == 0) return absl::OkStatus();
  check.AtLeast("ldx", args.ldx, args.width).AtLeast("ldo", args.ldo, args.width);
  check.Pointer("x", args.x).Pointer("weight", args.weight).Pointer("out", args.out);
  if (!(args.eps >= 0)) check.Fail("eps", "at least 0", args.eps);
  RETURN_IF_ERROR(check.status());
  return DoRmsNorm(args);
}

absl::Status Backend::MatMul(const MatMulArgs& args) {
  Checker check("MatMul");
  check.AtLeast("m", args.m, 0);
  check.ActivationType("a_type", args.a_type).ActivationType("c_type", args.c_type);
  CheckMatrices(check, "w", args.w);
  check.AtLeast("segment_k", args.segment_k, 0).MultipleOf("segment_k", args.segment_k, 2);
  RETURN_IF_ERROR(check.status());
  const PackedMatrix& w = args.w[0];
  if (args.m == 0 || w.n == 0) return absl::OkStatus();
  check.Pointer("a", args.a).Pointer("c", args.c);
  if (args.m > 1) check.AtLeast("lda", args.lda, w.k).AtLeast("ldc", args.ldc, w.n);
  if (args.w.size() > 1) {
    check.AtLeast("a_batch_stride", args.a_batch_stride, 0);
    check.AtLeast("c_batch_stride", args.c_batch_stride, w.n);
  }
  if (args.a_scales != nullptr) {
    check.Equal("w.size with a_scales", static_cast<int64_t>(args.w.size()), 1);
    CheckActivationScales(check, w, args.a_type, args.lda_scales, args.segment_k);
  }
  RETURN_IF_ERROR(check.status());
  return DoMatMul(args);
}

absl::Status Backend::GroupedMatMul(const GroupedMatMulArgs& args) {
  if (args.w.empty()) return absl::OkStatus();
  Checker check("GroupedMatMul");
  check.ActivationType("a_type", args.a_type).ActivationType("c_type", args.c_type);
  check.Pointer("offsets", args.offsets);
  CheckMatrices(check, "w", args.w);
  RETURN_IF_ERROR(check.status());
  const int64_t experts = static_cast<int64_t>(args.w.size());
  check.AtLeast("offsets[0]", args.offsets[0], 0);
  for (int64_t g = 0; g < experts && check.status().ok(); ++g) {
    check.AtLeast("offsets entry", args.offsets[g + 1], args.offsets[g]);
  }
  RETURN_IF_ERROR(check.status());
  const PackedMatrix& w = args.w[0];
  const int32_t begin = args.offsets[0], end = args.offsets[experts];
  if (begin == end || w.n == 0) return absl::OkStatus();
  check.Pointer("a", args.a).Pointer("c", args.c);
  check.AtLeast("lda", args.lda, w.k).AtLeast("ldc", args.ldc, w.n);
  for (int32_t s = begin; args.row_index != nullptr && s < end && check.status().ok(); ++s) {
    check.AtLeast("row_index entry", args.row_index[s], 0);
  }
  if (args.a_scales != nullptr) CheckActivationScales(check, w, args.a_type, args.lda_scales, 0);
  RETURN_IF_ERROR(check.status());
  return DoGroupedMatMul(args);
}

absl::Status Backend::Quantize(const QuantizeArgs& args) {
  Checker check("Quantize");
  check.AtLeast("m", args.m, 0).AtLeast("k", args.k, 0).ActivationType("x_type", args.x_type);
  check.AtLeast("block_k", args.block_k, 1).AtLeast("phase_k", args.phase_k, 0);
  check.AtMost("phase_k", args.phase_k, args.block_k - 1).AtLeast("segment_k", args.segment_k, 0);
  RETURN_IF_ERROR(check.status());
  if (args.m == 0 || args.k == 0) return absl::OkStatus();
  check.AtLeast("ldx", args.ldx, args.k).AtLeast("ldo", args.ldo, args.k);
  check.AtLeast("lds", args.lds,
                QuantizeGroups(args.k, args.block_k, args.phase_k, args.segment_k));
  check.Pointer("x", args.x).Pointer("out", args.out).Pointer("scales", args.scales);
  RETURN_IF_ERROR(check.status());
  return DoQuantize(args);
}

absl::Status Backend::Rope(const RopeArgs& args) {
  Checker check("Rope");
  check.AtLeast("tokens", args.tokens, 0).AtLeast("heads", args.heads, 0);
  check.AtLeast("dim", args.dim, 0)
      .MultipleOf("dim", args.dim, 2)
      .ActivationType("type", args.type);
  RETURN_IF_ERROR(check.status());
  if (args.tokens == 0 || args.heads == 0 || args.dim == 0) return absl::OkStatus();
  check.Pointer("positions", args.positions).Pointer("x", args.x);
  check.Pointer("cos", args.cos).Pointer("sin", args.sin);
  if (args.heads > 1) check.AtLeast("head_stride", args.head_stride, args.dim);
  if (args.tokens > 1) check.AtLeast("token_stride", args.token_stride, args.dim);
  for (int64_t t = 0; t < args.tokens && check.status().ok(); ++t) {
    check.AtLeast("positions entry", args.positions[t], 0);
  }
  RETURN_IF_ERROR(check.status());
  return DoRope(args);
}

absl::Status Backend::CacheWrite(const CacheWriteArgs& args) {
  Checker check("CacheWrite");
  check.AtLeast("tokens", args.tokens, 0);
  RETURN_IF_ERROR(check.status());
  if (args.tokens == 0) return absl::OkStatus();
  CheckCache(check, args.cache);
  check.Pointer("slots", args.slots).Pointer("rows", args.rows);
  if (args.tokens > 1) check.AtLeast("ld", args.ld, args.cache.width);
  for (int64_t t = 0; t < args.tokens && check.status().ok(); ++t) {
    check.AtMost("slots entry", args.slots[t], args.cache.blocks * args.cache.block_tokens - 1);
  }
  RETURN_IF_ERROR(check.status());
  return DoCacheWrite(args);
}

absl::Status Backend::AttentionExpanded(const AttentionExpandedArgs& args) {
  Checker check("AttentionExpanded");
  check.AtLeast("tokens", args.tokens, 0).AtLeast("heads", args.heads, 0);
  check.AtLeast("pos0", args.pos0, 0).AtLeast("nope", args.nope, 1).AtLeast("rope", args.rope, 0);
  check.AtLeast("v", args.v, 1).AtLeast("lora", args.lora, 1);
  RETURN_IF_ERROR(check.status());
  if (args.tokens == 0 || args.heads == 0) return absl::OkStatus();
  CheckCache(check, args.cache);
  check.Equal("cache.width", args.cache.width, args.lora + args.rope);
  check.Equal("k_up.size", static_cast<int64_t>(args.k_up.size()), args.heads);
  check.Equal("v_up.size", static_cast<int64_t>(args.v_up.size()), args.heads);
  RETURN_IF_ERROR(check.status());
  CheckMatrices(check, "k_up", args.k_up);
  CheckMatrices(check, "v_up", args.v_up);
  check.Equal("k_up.n", args.k_up[0].n, args.nope).Equal("k_up.k", args.k_up[0].k, args.lora);
  check.Equal("v_up.n", args.v_up[0].n, args.v).Equal("v_up.k", args.v_up[0].k, args.lora);
  check.Pointer("q", args.q).Pointer("out", args.out).Pointer("scratch", args.scratch);
  if (args.tokens > 1) {
    check.AtLeast("ldq", args.ldq, args.heads * (args.nope + args.rope));
    check.AtLeast("ldo", args.ldo, args.heads * args.v);
  }
  CheckBlocks(check, args.block_table, args.pos0 + args.tokens, args.cache);
  RETURN_IF_ERROR(check.status());
  check.AtLeast("scratch_bytes", args.scratch_bytes,
                AttentionExpandedScratch(args.pos0 + args.tokens, args.tokens, args.nope, args.v,
                                         args.cache.type));
  RETURN_IF_ERROR(check.status());
  return DoAttentionExpanded(args);
}

absl::Status Backend::AttentionAbsorbed(const AttentionAbsorbedArgs& args) {
  Checker check("AttentionAbsorbed");
  check.AtLeast("tokens", args.tokens, 0).AtLeast("heads", args.heads, 0);
  check.AtLeast("lora", args.lora, 1).AtLeast("rope", args.rope, 0);
  RETURN_IF_ERROR(check.status());
  if (args.tokens == 0 || args.heads == 0) return absl::OkStatus();
  CheckCache(check, args.cache);
  check.Equal("cache.width", args.cache.width, args.lora + args.rope);
  check.Pointer("q", args.q).Pointer("out", args.out).Pointer("scratch", args.scratch);
  check.Pointer("positions", args.positions).Pointer("block_tables", args.block_tables);
  if (args.tokens > 1) {
    check.AtLeast("ldq", args.ldq, args.heads * (args.lora + args.rope));
    check.AtLeast("ldo", args.ldo, args.heads * args.lora);
  }
  RETURN_IF_ERROR(check.status());
  int64_t context = 0;
  for (int64_t t = 0; t < args.tokens && check.status().ok(); ++t) {
    check.AtLeast("positions entry", args.positions[t], 0);
    CheckBlocks(check, args.block_tables[t], args.positions[t] + int64_t{1}, args.cache);
    if (args.positions[t] >= context) context = args.positions[t] + int64_t{1};
  }
  RETURN_IF_ERROR(check.status());
  check.AtLeast("scratch_bytes", args.scratch_bytes, AttentionAbsorbedScratch(context));
  RETURN_IF_ERROR(check.status());
  return DoAttentionAbsorbed(args);
}

absl::Status Backend::SwiGlu(const SwiGluArgs& args) {
  Checker check("SwiGlu");
  check.AtLeast("rows", args.rows, 0).AtLeast("width", args.width, 0);
  check.ActivationType("out_type", args.out_type);
  RETURN_IF_ERROR(check.status());
  if (args.rows == 0 || args.width == 0) return absl::OkStatus();
  check.Pointer("gate", args.gate).Pointer("up", args.up).Pointer("out", args.out);
  if (args.rows > 1) check.AtLeast("ld", args.ld, args.width).AtLeast("ldo", args.ldo, args.width);
  RETURN_IF_ERROR(check.status());
  return DoSwiGlu(args);
}

absl::Status Backend::Route(const RouteArgs& args) {
  Checker check("Route");
  check.AtLeast("tokens", args.tokens, 0).AtLeast("experts", args.experts, 1);
  check.AtLeast("groups", args.groups, 1);
  RETURN_IF_ERROR(check.status());
  check.MultipleOf("experts", args.experts, args.groups);
  check.AtLeast("topk_groups", args.topk_groups, 1)
      .AtMost("topk_groups", args.topk_groups, args.groups);
  check.AtLeast("top_k", args.top_k, 1)
      .AtMost("top_k", args.top_k, args.experts / args.groups * args.topk_groups);
  RETURN_IF_ERROR(check.status());
  if (args.tokens == 0) return absl::OkStatus();
  check.Pointer("logits", args.logits).Pointer("ids", args.ids).Pointer("weights", args.weights);
  RETURN_IF_ERROR(check.status());
  return DoRoute(args);
}

absl::Status Backend::ExpertCombine(const ExpertCombineArgs& args) {
  Checker check("ExpertCombine");
  check.AtLeast("tokens", args.tokens, 0).AtLeast("width", args.width, 0);
  check.AtLeast("top_k", args.top_k, 1).AtLeast("experts", args.experts, 1);
  RETURN_IF_ERROR(check.status());
  if (args.tokens == 0 || args.width == 0) return absl::OkStatus();
  check.Pointer("ids", args.ids).Pointer("weights", args.weights).Pointer("slots", args.slots);
  check.Pointer("out", args.out);
  if (args.tokens > 1) check.AtLeast("ldo", args.ldo, args.width);
  RETURN_IF_ERROR(check.status());
  for (int64_t i = 0; i < args.tokens * args.top_k; ++i) {
    if (args.slots[i] < 0) continue;
    check.Pointer("rows", args.rows).AtLeast("ld", args.ld, args.width);
    check.AtLeast("ids entry", args.ids[i], 0).AtMost("ids entry", args.ids[i], args.experts - 1);
    RETURN_IF_ERROR(check.status());
  }
  return DoExpertCombine(args);
}

absl::Status Backend::TreeAdd(const TreeAddArgs& args) {
  Checker check("TreeAdd");
  check.AtLeast("rows", args.rows, 0).AtLeast("cols", args.cols, 0);
  check.AtLeast("partials.size", static_cast<int64_t>(args.partials.size()), 1);
  RETURN_IF_ERROR(check.status());
  if (args.rows == 0 || args.cols == 0) return absl::OkStatus();
  for (size_t i = 0; i < args.partials.size() && check.status().ok(); ++i) {
    check.Pointer("partials entry", args.partials[i]);
  }
  check.Pointer("out", args.out);
  if (args.rows > 1) check.AtLeast("ldp", args.ldp, args.cols).AtLeast("ldo", args.ldo, args.cols);
  RETURN_IF_ERROR(check.status());
  return DoTreeAdd(args);
}

absl::Status Backend::Cast(const CastArgs& args) {
  Checker check("Cast");
  check.AtLeast("rows", args.rows, 0).AtLeast("cols", args.cols, 0);
  check.ActivationType("out_type", args.out_type);
  RETURN_IF_ERROR(check.status());
  if (args.rows == 0 || args.cols == 0) return absl::OkStatus();
  check.Pointer("x", args.x).Pointer("out", args.out);
  if (args.rows > 1) check.AtLeast("ldx", args.ldx, args.cols).AtLeast("ldo", args.ldo, args.cols);
  RETURN_IF_ERROR(check.status());
  return DoCast(args);
}

absl::Status Backend::Sample(const SampleArgs& args) {
  Checker check("Sample");
  check.AtLeast("rows", args.rows, 0).AtLeast("vocab", args.vocab, 1);
  check.AtLeast("segment0", args.segment0, 0).AtLeast("segments", args.segments, 0);
  check.AtMost("segment0 + segments", args.segment0 + args.segments, kVocabSegments);
  check.AtLeast("top_k", args.top_k, 0);
  RETURN_IF_ERROR(check.status());
  if (args.rows == 0) return absl::OkStatus();
  const int64_t size = VocabSegment(args.vocab);
  const int64_t begin = args.segment0 * size;
  const int64_t limit = (args.segment0 + args.segments) * size;
  const int64_t ids = (limit < args.vocab ? limit : args.vocab) - begin;
  if (ids > 0) check.Pointer("logits", args.logits);
  if (args.rows > 1) check.AtLeast("ld", args.ld, ids);
  check.Pointer("temperature", args.temperature).Pointer("seed", args.seed);
  check.Pointer("position", args.position).Pointer("choice", args.choice);
  check.Pointer("best", args.best);
  if (args.segments > 0) {
    check.Pointer("segment_max", args.segment_max).Pointer("segment_sum", args.segment_sum);
  }
  if (args.top_k > 0) check.Pointer("top", args.top);
  for (int64_t r = 0; r < args.rows && check.status().ok(); ++r) {
    if (!(args.temperature[r] >= 0)) {
      check.Fail("temperature entry", "at least 0", args.temperature[r]);
    }
  }
  for (int64_t r = 0; args.target != nullptr && r < args.rows && check.status().ok(); ++r) {
    check.AtMost("target entry", args.target[r], args.vocab - 1);
  }
  RETURN_IF_ERROR(check.status());
  return DoSample(args);
}

namespace {

void CheckFilter(const SampleFilter& filter, int64_t vocab, Checker& check) {
  check.Pointer("row's logits", filter.logits);
  const auto in_range = [&](const char* what, int64_t id) {
    check.AtLeast(what, id, 0).AtMost(what, id, vocab - 1);
  };
  for (const TokenCount& count : filter.seen) in_range("seen id", count.id);
  for (const LogitBias& bias : filter.bias) in_range("id of a bias", bias.id);
  for (const int32_t id : filter.banned) in_range("banned id", id);
  check.AtLeast("top_k", filter.top_k, 0);
  // Colder, a logit divided by it could overflow.
  if (filter.temperature != 0 && !(filter.temperature >= 1e-6f)) {
    check.Fail("temperature", "0 or at least 1e-6", filter.temperature);
  }
  if (!(filter.repetition_penalty > 0)) {
    check.Fail("repetition_penalty", "above 0", filter.repetition_penalty);
  }
  if (!(filter.top_p > 0)) check.Fail("top_p", "above 0", filter.top_p);
  if (!(filter.min_p >= 0 && filter.min_p <= 1)) check.Fail("min_p", "0 to 1", filter.min_p);
}

}  // namespace

absl::Status Backend::SampleFiltered(const SampleFilteredArgs& args) {
  if (args.rows.empty()) return absl::OkStatus();
  Checker check("SampleFiltered");
  check.AtLeast("vocab", args.vocab, 1);
  check.Pointer("best", args.best).Pointer("scratch", args.scratch);
  for (const SampleFilter& filter : args.rows) CheckFilter(filter, args.vocab, check);
  RETURN_IF_ERROR(check.status());
  return DoSampleFiltered(args);
}

}  // namespace whalepod
