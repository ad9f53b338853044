// Generate's messages as OpenAI's objects: whole, or as chunks of a stream of server-sent events.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "coordinator/api/openai_request.h"
#include "coordinator/text/tokenizer.h"
#include "nlohmann/json.hpp"
#include "whalepod/v1/inference.pb.h"

namespace whalepod {

// An error as an HTTP answer.
struct HttpError {
  int status = 500;
  std::string body;             // {"error": {"message", "type", "param", "code"}}
  uint32_t retry_after_ms = 0;  // 0: not said
};
HttpError ToHttpError(const absl::Status& status);

// One request's answers, `n` for each of its prompts: those of prompt p have the indices from p *
// n. Reasoning goes to `reasoning_content` and `reasoning` of a chat, and stands between <think>
// and </think> in the text of a completion.
class OpenAiResponse {
 public:
  // n: how many answers a prompt gets. created: seconds of the wall clock. tokenizer: null if the
  // model has none.
  OpenAiResponse(const OpenAiRequest& request, uint32_t n,
                 std::shared_ptr<const Tokenizer> tokenizer, int64_t created);

  // The events of a message for a prompt, "data: ...\n\n" each; may be none.
  std::string Events(const v1::GenerateResponse& message, uint32_t prompt = 0);
  // After the last message of all prompts.
  std::string LastEvents() const;

  void Gather(const v1::GenerateResponse& message, uint32_t prompt = 0);
  // The whole answer, once the last message of each prompt was gathered.
  std::string Whole() const;

 private:
  using Json = nlohmann::ordered_json;

  using Tokens = google::protobuf::RepeatedPtrField<v1::GeneratedToken>;

  struct Choice {
    std::string text, reasoning;
    Json logprobs;          // lists by name; null: none yet
    size_t characters = 0;  // of the tokens so far
    uint32_t generated = 0;
    bool role_sent = false;
    bool echoed = false;
    bool thinking = false;  // a completion's text is within reasoning
    bool begun = false;
    v1::GenerateResponse::Finished finished;
  };

  struct Prompt {
    std::string echo;  // its text, where it is asked for
    bool reasoning_open = false;
    v1::Usage usage;  // of the choices that have ended
  };

  void Start(const v1::GenerateResponse::Started& started, Prompt* prompt);
  // Null if a message is about a choice that nobody asked for.
  Choice* Find(uint32_t prompt, uint32_t choice);
  uint32_t IndexOf(const Choice& choice) const {
    return static_cast<uint32_t>(&choice - choices_.data());
  }
  const Prompt& PromptOf(const Choice& choice) const { return prompts_[IndexOf(choice) / n_]; }
  void NoteFinished(const v1::GenerateResponse::Finished& finished, Choice* choice);
  Json Head(const char* object) const;
  Json Chunk(uint32_t choice, Json delta, Json logprobs, Json finish) const;
  std::string Event(const Json& json) const;
  std::string TokenEvents(const v1::GenerateResponse::Tokens& tokens, Choice& choice);
  // A completion's text of a span, with the tags that belong before it.
  std::string Tagged(Choice& choice, const v1::TextSpan& span) const;
  // What a choice begins with where the prompt is echoed: once.
  std::string Echo(Choice& choice) const;
  // A prompt's logprobs, which come before any token, as events of all its choices.
  std::string PromptEvents(const v1::GenerateResponse::Prompt& tokens, uint32_t prompt);
  // A message's logprobs as an object of lists, which go on those of the messages before.
  Json LogprobsOf(const Tokens& tokens, Choice& choice) const;
  Json ChatLogprobs(const Tokens& tokens) const;
  Json TextLogprobs(const Tokens& tokens, Choice& choice) const;
  void GatherLogprobs(const Tokens& tokens, Choice& choice) const;
  Json TokenLogprob(uint32_t id, float logprob) const;
  Json Usage() const;

  const bool chat_, include_usage_, continuous_usage_, with_logprobs_;
  const std::shared_ptr<const Tokenizer> tokenizer_;
  const int64_t created_;
  const uint32_t n_;
  std::string id_, model_;
  std::vector<Prompt> prompts_;
  std::vector<Choice> choices_;
};

}  // namespace whalepod
