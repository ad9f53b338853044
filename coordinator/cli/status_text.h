// A deployment's state for people.
#pragma once

#include <string>

#include "whalepod/v1/inference.pb.h"

namespace whalepod {

// Lines that end with a newline: state, model, requests, rates, KV cache, then two a rank.
std::string StatusText(const v1::GetStatusResponse& status, const v1::GetModelResponse& model);

}  // namespace whalepod
