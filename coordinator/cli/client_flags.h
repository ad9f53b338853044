// Options that commands share which talk to a running deployment.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "CLI/CLI.hpp"
#include "base/clock.h"
#include "whalepod/v1/inference.pb.h"

namespace whalepod {

struct EndpointFlag {
  std::string endpoint = "127.0.0.1:50051";
  std::string api_key;
  void Declare(CLI::App* command);
};

// Of commands that ask for completions.
struct ClientFlags : EndpointFlag {
  std::string model;
  std::optional<uint32_t> max_tokens;
  std::optional<float> temperature;
  std::optional<uint64_t> seed;
  std::optional<uint32_t> top_k;
  std::optional<float> top_p, min_p;
  std::optional<float> repetition_penalty, presence_penalty, frequency_penalty;
  double wait = 60;  // seconds

  void Declare(CLI::App* command);
  // Model and options of a request.
  void Fill(v1::GenerateRequest* request) const;
  Duration WaitTime() const;
};

}  // namespace whalepod
