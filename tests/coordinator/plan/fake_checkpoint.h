// Checkpoints that exist only as headers, and random small models for them.
#pragma once

#include <random>

#include "coordinator/checkpoint/checkpoint.h"
#include "coordinator/plan/planner.h"

namespace whalepod {

// A model of random small dimensions: dense and expert layers, with and without q_lora, FP8 blocks
// of odd sizes, tied heads, 0 to 2 shared experts. Degrees up to 4 can split it.
v1::ModelSpec RandomModel(std::mt19937_64& random);

// All tensors of `model` and one skipped one, spread over three files, tensors back to back after a
// gap at each file's start. FP8 weights where the model has blocks, else F32.
Checkpoint FakeCheckpoint(const v1::ModelSpec& model);

// A layout that RandomModel's models allow.
void RandomLayout(std::mt19937_64& random, const v1::ModelSpec& model, PlanRequest* request);

}  // namespace whalepod
