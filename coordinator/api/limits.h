// The most that one request may ask for, whatever it came by.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>

#include "whalepod/v1/inference.pb.h"

namespace whalepod {

inline constexpr uint32_t kMostChoices = 64;
inline constexpr uint32_t kMostLogprobs = 20;
inline constexpr int kMostStops = 16;
inline constexpr size_t kLongestStop = 256;  // bytes
inline constexpr int kMostStopTokens = 64;
inline constexpr int kMostBiases = 1024;
inline constexpr size_t kMostPrompts = 256;    // of one completion
inline constexpr size_t kMostRequestId = 128;  // characters
// Bytes of a request that is no upload: a prompt of 160k token ids takes half a megabyte, its text
// somewhat more.
inline constexpr size_t kMostBody = 4 << 20;
// Bytes of a file, or of a job's text, and how long it may take to come. OpenAI's files have 200
// MB.
inline constexpr size_t kMostUpload = 200'000'000;
inline constexpr std::chrono::minutes kLongestUpload(5);
inline constexpr std::chrono::seconds kUploadPause(30);  // without a byte

// How many answers there must be room for before a request has been checked.
inline uint32_t ChoicesOf(const v1::GenerateRequest& request) {
  return std::clamp(request.options().n(), 1u, kMostChoices);
}

}  // namespace whalepod
