#include "coordinator/cli/answer.h"

#include "coordinator/text/pieces.h"
#include "nlohmann/json.hpp"

namespace whalepod {
namespace {

using Json = nlohmann::ordered_json;

Json LogprobOf(const v1::GeneratedToken& token) {
  Json top = Json::array();
  for (const v1::TokenLogprob& best : token.top()) {
    top.push_back({{"token_id", best.token_id()}, {"logprob", best.logprob()}});
  }
  return {{"token_id", token.token_id()}, {"logprob", token.logprob()}, {"top", std::move(top)}};
}

const char* NameOf(v1::FinishReason reason) {
  switch (reason) {
    case v1::FINISH_REASON_STOP:
      return "stop";
    case v1::FINISH_REASON_LENGTH:
      return "length";
    default:
      return "unspecified";
  }
}

}  // namespace

std::string AnswerJson(const Client::Answer& answer, bool with_logprobs) {
  Utf8Assembler assembler;
  std::string whole;
  Json ids = Json::array();
  Json logprobs = Json::array();
  for (const v1::GeneratedToken& token : answer.tokens) {
    whole += assembler.Add(token.piece());
    ids.push_back(token.token_id());
    if (with_logprobs) logprobs.push_back(LogprobOf(token));
  }
  whole += assembler.Finish();
  const SplitAnswer split = SplitReasoning(whole);
  const v1::Usage& usage = answer.finished.usage();
  Json json = {{"text", split.text},
               {"reasoning", split.reasoning},
               {"token_ids", std::move(ids)},
               {"finish_reason", NameOf(answer.finished.reason())},
               {"usage",
                {{"prompt_tokens", usage.prompt_tokens()},
                 {"cached_tokens", usage.cached_tokens()},
                 {"completion_tokens", usage.completion_tokens()}}},
               {"seed", answer.started.seed()},
               {"request_id", answer.started.request_id()}};
  if (with_logprobs) json["logprobs"] = std::move(logprobs);
  return json.dump(-1, ' ', /*ensure_ascii=*/false, Json::error_handler_t::replace);
}

}  // namespace whalepod
