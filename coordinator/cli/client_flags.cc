#include "coordinator/cli/client_flags.h"

#include <chrono>

namespace whalepod {

void EndpointFlag::Declare(CLI::App* command) {
  command->add_option("--endpoint", endpoint, "HOST:PORT of the deployment")
      ->envname("WHALEPOD_ENDPOINT")
      ->capture_default_str();
}

void ClientFlags::Declare(CLI::App* command) {
  EndpointFlag::Declare(command);
  command->add_option("--model", model, "name of the model; default the one served");
  command->add_option("--max-tokens", max_tokens, "most tokens of an answer");
  command->add_option("--temperature", temperature, "0 is greedy");
  command->add_option("--seed", seed, "of sampling; drawn for each answer if absent");
  command->add_option("--wait", wait, "seconds to wait for a ready deployment")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
}

void ClientFlags::Fill(v1::GenerateRequest* request) const {
  request->set_model(model);
  v1::GenerationOptions* options = request->mutable_options();
  if (max_tokens) options->set_max_tokens(*max_tokens);
  if (temperature) options->set_temperature(*temperature);
  if (seed) options->set_seed(*seed);
}

Duration ClientFlags::WaitTime() const {
  return std::chrono::duration_cast<Duration>(std::chrono::duration<double>(wait));
}

}  // namespace whalepod
