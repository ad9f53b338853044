// whalepod generate: completions from a running deployment.
#include <cstdio>
#include <deque>
#include <fstream>
#include <future>
#include <iostream>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/status.h"
#include "coordinator/cli/answer.h"
#include "coordinator/cli/client.h"
#include "coordinator/cli/client_flags.h"
#include "coordinator/cli/commands.h"
#include "coordinator/cli/prompts.h"

namespace whalepod {
namespace {

// Requests under way at once when a file has many.
constexpr size_t kWindow = 16;

struct Flags : ClientFlags {
  // One of them.
  std::optional<std::string> prompt;
  std::optional<std::string> prompt_token_ids;
  std::optional<std::string> prompts;
  std::optional<std::string> resume;
  std::optional<uint32_t> logprobs, prompt_logprobs;
  std::optional<uint32_t> min_tokens, n;
  std::vector<std::string> stop;
  std::vector<uint32_t> stop_token_ids;
  std::vector<std::string> logit_bias;
  bool ignore_eos = false;
  bool resumable = false;
  bool json = false;
};

// "ID:VALUE"
absl::Status AddBias(const std::string& text, v1::GenerationOptions* options) {
  const std::pair<std::string, std::string> parts = absl::StrSplit(text, absl::MaxSplits(':', 1));
  uint32_t id = 0;
  float bias = 0;
  if (!absl::SimpleAtoi(parts.first, &id) || !absl::SimpleAtof(parts.second, &bias)) {
    return absl::InvalidArgumentError(
        absl::StrCat("--logit-bias: expected ID:VALUE, found \"", text, "\""));
  }
  (*options->mutable_logit_bias())[id] = bias;
  return absl::OkStatus();
}

absl::Status FillOptions(const Flags& flags, v1::GenerationOptions* options) {
  if (flags.logprobs) options->set_logprobs(*flags.logprobs);
  if (flags.prompt_logprobs) options->set_prompt_logprobs(*flags.prompt_logprobs);
  if (flags.min_tokens) options->set_min_tokens(*flags.min_tokens);
  if (flags.n) options->set_n(*flags.n);
  for (const uint32_t id : flags.stop_token_ids) options->add_stop_token_ids(id);
  if (flags.ignore_eos) options->set_ignore_eos(true);
  for (const std::string& stop : flags.stop) options->add_stop(stop);
  for (const std::string& bias : flags.logit_bias) RETURN_IF_ERROR(AddBias(bias, options));
  return absl::OkStatus();
}

absl::StatusOr<std::vector<v1::GenerateRequest>> MakeRequests(const Flags& flags) {
  v1::GenerateRequest base;
  flags.Fill(&base);
  RETURN_IF_ERROR(FillOptions(flags, base.mutable_options()));
  base.set_resumable(flags.resumable);
  if (flags.prompt) {
    RETURN_IF_ERROR(Annotate(CheckUtf8(*flags.prompt), "--prompt"));
    base.set_text(*flags.prompt);
    return std::vector<v1::GenerateRequest>{base};
  }
  if (flags.prompt_token_ids) {
    ASSIGN_OR_RETURN(const std::vector<uint32_t> ids, ParseTokenIds(*flags.prompt_token_ids));
    base.mutable_token_ids()->mutable_ids()->Assign(ids.begin(), ids.end());
    return std::vector<v1::GenerateRequest>{base};
  }
  const std::string& path = *flags.prompts;
  std::ifstream file;
  const bool standard_input = path == "-";
  if (!standard_input) file.open(path);
  if (!standard_input && !file) return absl::NotFoundError(path + " can't be opened");
  ASSIGN_OR_RETURN(std::vector<v1::GenerateRequest> requests,
                   ReadPrompts(standard_input ? std::cin : file, path));
  for (v1::GenerateRequest& request : requests) request.MergeFrom(base);
  return requests;
}

void Show(const Client::Choice& choice, bool has_tokenizer) {
  AnswerPrinter printer(OnTerminal(), has_tokenizer);
  v1::GenerateResponse::Tokens all;
  all.mutable_tokens()->Add(choice.tokens.begin(), choice.tokens.end());
  const std::pair<v1::SpanKind, const std::string*> spans[] = {
      {v1::SPAN_KIND_REASONING, &choice.reasoning}, {v1::SPAN_KIND_ANSWER, &choice.text}};
  for (const auto& [kind, text] : spans) {
    if (text->empty()) continue;
    v1::TextSpan* span = all.add_spans();
    span->set_kind(kind);
    span->set_text(*text);
  }
  printer.Show(all);
  printer.End();
}

// What one request's answers add to standard output when they are whole.
int Print(const Flags& flags, bool has_tokenizer, const absl::StatusOr<Client::Answer>& answer) {
  if (!answer.ok()) return ReportError(answer.status());
  for (size_t i = 0; i < answer->choices.size(); ++i) {
    if (flags.json) {
      const JsonOptions options{flags.logprobs.has_value(), flags.prompt_logprobs.has_value()};
      std::printf("%s\n", AnswerJson(*answer, i, options).c_str());
      std::fflush(stdout);
    } else {
      Show(answer->choices[i], has_tokenizer);
    }
  }
  return 0;
}

// All of a resumable request's answer.
int Resume(const Flags& flags, Client& client, bool has_tokenizer) {
  if (flags.json) return Print(flags, has_tokenizer, client.Resume(*flags.resume, nullptr));
  return ShowLive(has_tokenizer, [&](const Client::OnTokens& on_tokens) {
    return client.Resume(*flags.resume, on_tokens);
  });
}

// Many requests, answered in order; an error of one doesn't stop the others.
int GenerateAll(const Flags& flags, Client& client, bool has_tokenizer,
                const std::vector<v1::GenerateRequest>& requests) {
  std::deque<std::future<absl::StatusOr<Client::Answer>>> under_way;
  int exit = 0;
  const auto print_first = [&] {
    const int status = Print(flags, has_tokenizer, under_way.front().get());
    if (status != 0) exit = status;
    under_way.pop_front();
  };
  for (const v1::GenerateRequest& request : requests) {
    if (under_way.size() == kWindow) print_first();
    under_way.push_back(std::async(
        std::launch::async, [&client, &request] { return client.Generate(request, nullptr); }));
  }
  while (!under_way.empty()) print_first();
  return exit;
}

int Generate(const Flags& flags) {
  absl::StatusOr<std::vector<v1::GenerateRequest>> requests = std::vector<v1::GenerateRequest>();
  if (!flags.resume) requests = MakeRequests(flags);
  if (!requests.ok()) return ReportError(requests.status());
  Client client(flags.endpoint, flags.api_key);
  const absl::Status ready = client.WaitReady(flags.WaitTime());
  if (!ready.ok()) return ReportError(ready);
  const absl::StatusOr<v1::GetModelResponse> model = client.GetModel();
  if (!model.ok()) return ReportError(model.status());
  const bool has_tokenizer = model->has_tokenizer();
  if (flags.resume) return Resume(flags, client, has_tokenizer);
  if (requests->size() == 1 && !flags.json && flags.n.value_or(1) == 1) {
    return ShowLive(has_tokenizer, [&](const Client::OnTokens& on_tokens) {
      return client.Generate(requests->front(), on_tokens);
    });
  }
  return GenerateAll(flags, client, has_tokenizer, *requests);
}

}  // namespace

void AddGenerate(CLI::App& app, CommandRun& run) {
  const auto flags = std::make_shared<Flags>();
  CLI::App* command = app.add_subcommand("generate", "Completions from a running deployment");
  flags->Declare(command);
  CLI::Option_group* prompt = command->add_option_group("prompt");
  prompt->add_option("--prompt", flags->prompt, "raw text, after the begin-of-sequence token");
  prompt->add_option("--prompt-token-ids", flags->prompt_token_ids, "token ids: 1,2,3");
  prompt->add_option("--prompts", flags->prompts,
                     "JSON lines with messages, prompt or prompt_token_ids; - is standard input");
  prompt->add_option("--resume", flags->resume,
                     "the answer of the resumable request with this id, from its beginning");
  prompt->require_option(1);
  command->add_option("--logprobs", flags->logprobs, "logprobs of each token and of the K best");
  command
      ->add_option("--stop", flags->stop, "text that ends the answer; may be given several times")
      ->allow_extra_args(false);
  command
      ->add_option("--stop-token-ids", flags->stop_token_ids, "token ids that end the answer: 1,2")
      ->delimiter(',');
  command
      ->add_option("--logit-bias", flags->logit_bias,
                   "added to a token's logit, ID:VALUE; may be given several times")
      ->allow_extra_args(false);
  command->add_option("--min-tokens", flags->min_tokens, "nothing ends the answer before");
  command->add_option("--n", flags->n, "answers to each prompt");
  command->add_option("--prompt-logprobs", flags->prompt_logprobs,
                      "logprobs of the prompt's tokens and of the K best; shown by --json");
  command->add_flag("--ignore-eos", flags->ignore_eos, "go on after the end of sequence");
  command->add_flag("--resumable", flags->resumable,
                    "the answer is kept, and goes on when the deployment is restarted");
  command->add_flag("--json", flags->json, "one JSON object a line");
  command->callback([flags, &run] { run = [flags] { return Generate(*flags); }; });
}

}  // namespace whalepod
