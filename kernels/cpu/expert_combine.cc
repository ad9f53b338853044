#include "kernels/cpu/isa_ops.h"
#include "kernels/cpu/simd.h"
#include "kernels/tree.h"

namespace whalepod::cpu::WHALEPOD_ISA {

namespace {

// The additions of one token, for a stack of sums: a step >= 0 pushes choice `step` of the token,
// kAdd adds the top sum to the one below.
constexpr int32_t kAdd = -1;
// The stack never holds more sums than the tree has levels.
constexpr int kMaxDepth = 64;

struct Program {
  int32_t* steps;  // [2 * top_k]
  int64_t size;
};

// Appends the sum over the experts [lo, hi), of which present[first..last) are here (indices into
// ids, whose values ascend); last > first.
void AppendTree(const int32_t* ids, const int32_t* present, int64_t lo, int64_t hi, int64_t first,
                int64_t last, Program* program) {
  if (last - first == 1) {
    program->steps[program->size++] = present[first];
    return;
  }
  const int64_t mid = TreeSplit(lo, hi);
  int64_t cut = first;
  while (cut < last && ids[present[cut]] < mid) ++cut;
  if (cut > first) AppendTree(ids, present, lo, mid, first, cut, program);
  if (cut < last) AppendTree(ids, present, mid, hi, cut, last, program);
  if (cut > first && cut < last) program->steps[program->size++] = kAdd;
}

// `vectors` times 16 columns at `column`; the last vector has `last` of them.
template <int vectors>
WHALEPOD_INLINE void CombineColumns(const ExpertCombineArgs& args, int64_t token,
                                    const Program& program, int64_t column, int last) {
  F32x16 stack[kMaxDepth][vectors];
  int top = 0;
  const int32_t* slots = args.slots + token * args.top_k;
  const float* weights = args.weights + token * args.top_k;
  for (int64_t s = 0; s < program.size; ++s) {
    const int32_t step = program.steps[s];
    if (step == kAdd) {
      --top;
      for (int v = 0; v < vectors; ++v) stack[top - 1][v] = stack[top - 1][v] + stack[top][v];
      continue;
    }
    const F32x16 weight = Set(weights[step]);
    const float* row = args.rows + slots[step] * args.ld + column;
    for (int v = 0; v < vectors; ++v) {
      const F32x16 x = last == 16 ? Load(row + 16 * v) : LoadPartial(row + 16 * v, last);
      stack[top][v] = weight * x;
    }
    ++top;
  }
  float* out = args.out + token * args.ldo + column;
  for (int v = 0; v < vectors; ++v) {
    const F32x16 sum = top == 0 ? Zero() : stack[0][v] + Zero();
    if (last == 16) {
      Store(out + 16 * v, sum);
    } else {
      StorePartial(out + 16 * v, sum, last);
    }
  }
}

}  // namespace

void ExpertCombine(const ExpertCombineArgs& args, ThreadPool& pool) {
  constexpr int64_t kPiece = 512;  // columns a task
  const int64_t pieces = (args.width + kPiece - 1) / kPiece;
  pool.ParallelFor(args.tokens * pieces, 1, [&](int64_t begin, int64_t end, int thread) {
    int32_t* scratch = static_cast<int32_t*>(
        pool.ThreadScratch(thread, 3 * args.top_k * static_cast<int64_t>(sizeof(int32_t))));
    int32_t* present = scratch + 2 * args.top_k;
    Program program{scratch, 0};
    int64_t planned = -1;
    for (int64_t item = begin; item < end; ++item) {
      const int64_t token = item / pieces;
      if (token != planned) {
        const int64_t base = token * args.top_k;
        int64_t count = 0;
        for (int64_t i = 0; i < args.top_k; ++i) {
          if (args.slots[base + i] >= 0) present[count++] = static_cast<int32_t>(i);
        }
        program.size = 0;
        if (count > 0) AppendTree(args.ids + base, present, 0, args.experts, 0, count, &program);
        planned = token;
      }
      int64_t column = item % pieces * kPiece;
      const int64_t stop = column + kPiece < args.width ? column + kPiece : args.width;
      for (; column + 64 <= stop; column += 64) CombineColumns<4>(args, token, program, column, 16);
      for (; column + 16 <= stop; column += 16) CombineColumns<1>(args, token, program, column, 16);
      if (column < stop) {
        CombineColumns<1>(args, token, program, column, static_cast<int>(stop - column));
      }
    }
  });
}

}  // namespace whalepod::cpu::WHALEPOD_ISA
