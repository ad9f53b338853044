// whalepod eval: questions with known answers, run as a job and graded.
#include <grpcpp/grpcpp.h>

#include <cstdio>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/compact_json.h"
#include "base/status.h"
#include "coordinator/checkpoint/file_io.h"
#include "coordinator/checkpoint/json.h"
#include "coordinator/cli/client.h"
#include "coordinator/cli/client_flags.h"
#include "coordinator/cli/commands.h"
#include "coordinator/cli/grading.h"
#include "coordinator/cli/job_submit.h"
#include "coordinator/cli/job_watch.h"
#include "coordinator/usage/prices.h"
#include "nlohmann/json.hpp"
#include "whalepod/v1/jobs.grpc.pb.h"

namespace whalepod {
namespace {

using Json = nlohmann::ordered_json;

// Of a file of questions.
constexpr int64_t kMostBytes = 256 << 20;

struct Flags : ClientFlags {
  std::string file, price_file;
  uint32_t samples = 1;
  bool json = false;
};

struct Question {
  Json messages;
  std::string answer;
};

absl::StatusOr<Question> ReadQuestion(absl::string_view line, const std::string& where) {
  ASSIGN_OR_RETURN(const nlohmann::json object, ParseJson(line, where));
  const auto wrong = [&](const char* what) {
    return absl::InvalidArgumentError(absl::StrCat(where, ": ", what));
  };
  if (!object.is_object()) return wrong("must be an object");
  Question question;
  const auto text = object.find("question"), messages = object.find("messages"),
             answer = object.find("answer");
  if (text != object.end() && text->is_string()) {
    question.messages = Json::array({{{"role", "user"}, {"content", text->get<std::string>()}}});
  } else if (messages != object.end() && messages->is_array()) {
    question.messages = *messages;
  } else {
    return wrong("needs \"question\", a text, or \"messages\", a list");
  }
  if (answer == object.end() || (!answer->is_string() && !answer->is_number())) {
    return wrong("needs \"answer\", a text or a number");
  }
  question.answer = answer->is_string() ? answer->get<std::string>() : answer->dump();
  return question;
}

absl::StatusOr<std::vector<Question>> ReadQuestions(const std::string& path) {
  ASSIGN_OR_RETURN(const std::string text, ReadWholeFile(path, kMostBytes));
  std::vector<Question> questions;
  size_t number = 0;
  for (absl::string_view line : absl::StrSplit(text, '\n')) {
    ++number;
    if (absl::StripAsciiWhitespace(line).empty()) continue;
    ASSIGN_OR_RETURN(Question question, ReadQuestion(line, absl::StrCat(path, ":", number)));
    questions.push_back(std::move(question));
  }
  if (questions.empty()) return absl::InvalidArgumentError(path + ": no questions");
  return questions;
}

// A line of OpenAI's batch format, with what was asked for by flag.
std::string LineOf(const Flags& flags, const Question& question, size_t index) {
  Json body = {{"messages", question.messages}};
  const auto set = [&body](const char* key, const auto& value) {
    if (value) body[key] = *value;
  };
  if (!flags.model.empty()) body["model"] = flags.model;
  if (flags.samples > 1) body["n"] = flags.samples;
  set("max_tokens", flags.max_tokens);
  set("temperature", flags.temperature);
  set("seed", flags.seed);
  set("top_k", flags.top_k);
  set("top_p", flags.top_p);
  set("min_p", flags.min_p);
  set("repetition_penalty", flags.repetition_penalty);
  set("presence_penalty", flags.presence_penalty);
  set("frequency_penalty", flags.frequency_penalty);
  const Json line = {{"custom_id", absl::StrCat("question-", index)},
                     {"method", "POST"},
                     {"url", "/v1/chat/completions"},
                     {"body", std::move(body)}};
  return CompactJson(line) + "\n";
}

void Print(const Flags& flags, const std::string& job, const Grades& grades) {
  const double per_right = grades.right() == 0 ? 0 : grades.cost() / grades.right();
  const double tokens =
      grades.right() == 0 ? 0 : static_cast<double>(grades.output_tokens()) / grades.right();
  if (flags.json) {
    const Json json = {{"job", job},
                       {"questions", grades.questions()},
                       {"samples", flags.samples},
                       {"right", grades.right()},
                       {"without_box", grades.without_box()},
                       {"pass_at_1", grades.pass_at_1()},
                       {"cons_at_k", grades.cons_at_k()},
                       {"output_tokens", grades.output_tokens()},
                       {"output_tokens_per_right_answer", tokens},
                       {"cost_dollars", grades.cost()},
                       {"cost_dollars_per_right_answer", per_right}};
    std::printf("%s\n", json.dump().c_str());
    return;
  }
  std::printf("job        %s\n", job.c_str());
  std::printf("questions  %u, %u answers each; %llu answers without a box\n", grades.questions(),
              flags.samples, static_cast<unsigned long long>(grades.without_box()));
  std::printf("pass@1     %.1f %%\n", 100 * grades.pass_at_1());
  if (flags.samples > 1) {
    std::printf("cons@%-5u %.1f %%\n", flags.samples, 100 * grades.cons_at_k());
  }
  std::printf("tokens     %.1f generated for each right answer\n", tokens);
  std::printf("cost       $%.6f, $%.9f for each right answer\n", grades.cost(), per_right);
}

absl::Status Run(const Flags& flags) {
  std::optional<Prices> prices;
  if (!flags.price_file.empty()) {
    ASSIGN_OR_RETURN(prices, Prices::Read(flags.price_file));
  }
  ASSIGN_OR_RETURN(const std::vector<Question> questions, ReadQuestions(flags.file));
  v1::SubmitJobRequest request;
  for (size_t i = 0; i < questions.size(); ++i) {
    request.mutable_jsonl()->append(LineOf(flags, questions[i], i));
  }
  RETURN_IF_ERROR(Client(flags.endpoint, flags.api_key).WaitReady(flags.WaitTime()));
  const auto stub = v1::JobService::NewStub(Dial(flags.endpoint, flags.api_key));
  ASSIGN_OR_RETURN(const v1::Job job, SubmitJob(*stub, std::move(request)));
  std::fprintf(stderr, "%s: %zu questions\n", job.id().c_str(), questions.size());

  std::vector<std::optional<v1::JobItem>> items(questions.size());
  v1::WatchJobRequest watch;
  watch.set_id(job.id());
  RETURN_IF_ERROR(
      WatchToEnd(*stub, watch, flags.WaitTime(), [&](const v1::WatchJobResponse& response) {
        for (const v1::JobItem& item : response.items()) {
          if (item.index() < items.size()) items[item.index()] = item;
        }
      }));
  Grades grades;
  for (size_t i = 0; i < questions.size(); ++i) {
    const v1::JobItem item = items[i].value_or(v1::JobItem());
    if (item.answer().status_code() != 200) {
      std::fprintf(
          stderr, "question %zu failed: %s\n", i + 1,
          (item.answer().status_code() != 0 ? item.answer().body() : item.answer().error_message())
              .c_str());
    }
    std::vector<std::string> texts;
    for (const v1::JobAnswer::Choice& choice : item.answer().choices()) {
      texts.push_back(choice.text());
    }
    const v1::Usage& usage = item.answer().usage();
    const double cost = prices.has_value() ? prices->Of(usage) : usage.cost_dollars();
    grades.Add(questions[i].answer, texts, flags.samples, usage, cost);
  }
  Print(flags, job.id(), grades);
  return absl::OkStatus();
}

}  // namespace

void AddEval(CLI::App& app, CommandRun& run) {
  const auto flags = std::make_shared<Flags>();
  CLI::App* command = app.add_subcommand(
      "eval", "Ask questions with known answers, as a job, and grade what stands in \\boxed{}");
  flags->Declare(command);
  command
      ->add_option("FILE", flags->file, "JSON lines: \"question\" or \"messages\", and \"answer\"")
      ->required();
  command->add_option("-k,--samples", flags->samples, "answers to each question")
      ->check(CLI::Range(1, 64))
      ->capture_default_str();
  command->add_option(
      "--price-file", flags->price_file,
      "JSON: dollars for a million tokens, cached_input, input and output; without it "
      "costs are the deployment's");
  command->add_flag("--json", flags->json, "one JSON object");
  command->callback([flags, &run] {
    run = [flags] {
      const absl::Status status = Run(*flags);
      return status.ok() ? 0 : ReportError(status);
    };
  });
}

}  // namespace whalepod
