// The vector functions of one instruction path over arrays, for math_test. Compiled once per path.
#include "kernels/cpu/math.h"
#include "kernels/cpu/philox.h"
#include "kernels/cpu/simd.h"

namespace whalepod::cpu::WHALEPOD_ISA {

// n is a multiple of 16.
void ExpArray(const float* x, float* out, int64_t n) {
  for (int64_t i = 0; i < n; i += 16) Store(out + i, Exp(Load(x + i)));
}
void LogArray(const float* x, float* out, int64_t n) {
  for (int64_t i = 0; i < n; i += 16) Store(out + i, Log(Load(x + i)));
}
void SigmoidArray(const float* x, float* out, int64_t n) {
  for (int64_t i = 0; i < n; i += 16) Store(out + i, Sigmoid(Load(x + i)));
}
void SiluArray(const float* x, float* out, int64_t n) {
  for (int64_t i = 0; i < n; i += 16) Store(out + i, Silu(Load(x + i)));
}
void GumbelArray(const int32_t* words, float* out, int64_t n) {
  for (int64_t i = 0; i < n; i += 16) Store(out + i, GumbelNoise(LoadI(words + i)));
}
// Sixteen counters, word w of counter i at counters[16 * w + i]; replaced by their blocks.
void PhiloxBlocks(uint32_t key0, uint32_t key1, int32_t* counters) {
  I32x16 words[4];
  for (int w = 0; w < 4; ++w) words[w] = LoadI(counters + 16 * w);
  Philox4x32(key0, key1, words);
  for (int w = 0; w < 4; ++w) StoreI(counters + 16 * w, words[w]);
}
// out[16] = ReduceTree16 of the 16 vectors at x.
void ReduceRows(const float* x, float* out) {
  F32x16 rows[16];
  for (int i = 0; i < 16; ++i) rows[i] = Load(x + 16 * i);
  Store(out, ReduceTree16(rows));
}
// Those of x[16] that are positive, one after the other; returns how many.
int PositiveOnes(const float* x, float* out) { return Compress(Load(x), Gt(Load(x), Zero()), out); }

}  // namespace whalepod::cpu::WHALEPOD_ISA
