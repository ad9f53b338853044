// Writes a small checkpoint of random weights: flat logits, where a last bit soon shows in tokens.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"

namespace whalepod::testing {

struct RandomCheckpoint {
  bool fp8 = true;  // quantisable matrices as E4M3 in 128 x 128 blocks; else BF16
  uint64_t seed = 1;
};

// An R1-architecture model whose sizes divide by 4 where they must and badly where they may: scale
// blocks straddle ranks, slices are no multiples of a panel, and the last of four TP ranks has no
// vocabulary. Returns its folder, which lasts as long as the process.
absl::StatusOr<std::string> WriteRandomCheckpoint(const RandomCheckpoint& options);

}  // namespace whalepod::testing
