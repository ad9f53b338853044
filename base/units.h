#pragma once

#include <cstdint>
#include <string>

namespace whalepod {

constexpr int64_t kKiB = 1024;
constexpr int64_t kMiB = 1024 * kKiB;
constexpr int64_t kGiB = 1024 * kMiB;

// "1.50 GiB", "512 B": for people.
std::string FormatBytes(int64_t bytes);
// "673,150,611,808": exact figures for people.
std::string FormatCount(int64_t value);

constexpr int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }
constexpr int64_t RoundUp(int64_t a, int64_t b) { return CeilDiv(a, b) * b; }

}  // namespace whalepod
