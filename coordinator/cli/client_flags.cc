#include "coordinator/cli/client_flags.h"

#include <chrono>

namespace whalepod {

void EndpointFlag::Declare(CLI::App* command) {
  command->add_option("--endpoint", endpoint, "HOST:PORT of the deployment")
      ->envname("WHALEPOD_ENDPOINT")
      ->capture_default_str();
  command->add_option("--api-key", api_key, "if the deployment asks for one")
      ->envname("WHALEPOD_API_KEY");
}

void ClientFlags::Declare(CLI::App* command) {
  EndpointFlag::Declare(command);
  command->add_option("--model", model, "name of the model; default the one served");
  command->add_option("--max-tokens", max_tokens, "most tokens of an answer");
  command->add_option("--temperature", temperature, "0 is greedy");
  command->add_option("--seed", seed, "of sampling; drawn for each answer if absent");
  command->add_option("--top-k", top_k, "only the K likeliest tokens; 0: all");
  command->add_option("--top-p", top_p, "only the likeliest tokens that together have this share");
  command->add_option("--min-p", min_p, "only tokens this likely, the likeliest being 1");
  command->add_option("--repetition-penalty", repetition_penalty,
                      "divides positive logits of tokens in prompt and answer");
  command->add_option("--presence-penalty", presence_penalty,
                      "taken from logits of tokens in the answer");
  command->add_option("--frequency-penalty", frequency_penalty,
                      "the same, for each time that they are in it");
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
  if (top_k) options->set_top_k(*top_k);
  if (top_p) options->set_top_p(*top_p);
  if (min_p) options->set_min_p(*min_p);
  if (repetition_penalty) options->set_repetition_penalty(*repetition_penalty);
  if (presence_penalty) options->set_presence_penalty(*presence_penalty);
  if (frequency_penalty) options->set_frequency_penalty(*frequency_penalty);
}

Duration ClientFlags::WaitTime() const {
  return std::chrono::duration_cast<Duration>(std::chrono::duration<double>(wait));
}

}  // namespace whalepod
