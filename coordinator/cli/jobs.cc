// whalepod jobs: work that survives restarts.
#include <grpcpp/grpcpp.h>

#include <chrono>
#include <cstdio>
#include <fstream>
#include <iostream>
#include <iterator>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "base/clock.h"
#include "base/status.h"
#include "coordinator/api/batch_format.h"
#include "coordinator/cli/answer.h"
#include "coordinator/cli/client.h"
#include "coordinator/cli/client_flags.h"
#include "coordinator/cli/commands.h"
#include "coordinator/cli/job_submit.h"
#include "coordinator/cli/job_watch.h"
#include "coordinator/cli/message_json.h"
#include "coordinator/cli/prompts.h"
#include "whalepod/v1/jobs.grpc.pb.h"

namespace whalepod {
namespace {

struct Flags : EndpointFlag {
  std::string id;
  bool json = false;
};

struct SubmitFlags : ClientFlags {
  std::optional<std::string> file, prompt, prompt_token_ids;
  std::string key;
  std::optional<int32_t> priority;
  uint32_t expires_after = 0;  // seconds
  std::vector<std::string> metadata;
  bool json = false;
};

std::unique_ptr<v1::JobService::Stub> StubOf(const EndpointFlag& flags) {
  return v1::JobService::NewStub(Dial(flags.endpoint, flags.api_key));
}

void PrintJson(const google::protobuf::Message& message) {
  // None of ours has an Any, which alone could fail.
  std::printf("%s\n", MessageJson(message).value_or("").c_str());
  std::fflush(stdout);
}

// "JOB_STATE_RUNNING" as "running".
std::string Short(absl::string_view name, absl::string_view prefix) {
  absl::ConsumePrefix(&name, prefix);
  return absl::AsciiStrToLower(name);
}

void PrintJob(const v1::Job& job, bool json) {
  if (json) return PrintJson(job);
  const v1::JobCounts& counts = job.counts();
  std::printf(
      "%s %s: %u of %u succeeded, %u failed, %u cancelled, %u expired; %u tokens in, %u out, "
      "$%.6f\n",
      job.id().c_str(), Short(v1::JobState_Name(job.state()), "JOB_STATE_").c_str(),
      counts.succeeded(), counts.total(), counts.failed(), counts.cancelled(), counts.expired(),
      job.usage().prompt_tokens(), job.usage().completion_tokens(), job.usage().cost_dollars());
}

absl::StatusOr<std::string> ReadAll(const std::string& path) {
  std::ifstream file;
  if (path != "-") file.open(path, std::ios::binary);
  if (path != "-" && !file) return absl::NotFoundError(path + " can't be opened");
  std::istream& in = path == "-" ? std::cin : file;
  std::string text{std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
  if (in.bad() || file.fail()) return absl::DataLossError(path + " can't be read");
  return text;
}

absl::StatusOr<v1::SubmitJobRequest> MakeRequest(const SubmitFlags& flags) {
  v1::SubmitJobRequest request;
  request.set_idempotency_key(flags.key);
  if (flags.priority) request.set_priority(*flags.priority);
  request.set_expires_after_seconds(flags.expires_after);
  for (const std::string& entry : flags.metadata) {
    const std::pair<std::string, std::string> parts =
        absl::StrSplit(entry, absl::MaxSplits('=', 1));
    (*request.mutable_metadata())[parts.first] = parts.second;
  }
  if (flags.file) {
    ASSIGN_OR_RETURN(*request.mutable_jsonl(), ReadAll(*flags.file));
    return request;
  }
  flags.Fill(request.mutable_generate());
  if (flags.prompt) {
    RETURN_IF_ERROR(Annotate(CheckUtf8(*flags.prompt), "--prompt"));
    request.mutable_generate()->set_text(*flags.prompt);
    return request;
  }
  ASSIGN_OR_RETURN(const std::vector<uint32_t> ids, ParseTokenIds(*flags.prompt_token_ids));
  request.mutable_generate()->mutable_token_ids()->mutable_ids()->Assign(ids.begin(), ids.end());
  return request;
}

int Submit(const SubmitFlags& flags) {
  absl::StatusOr<v1::SubmitJobRequest> request = MakeRequest(flags);
  if (!request.ok()) return ReportError(request.status());
  const absl::StatusOr<v1::Job> job = SubmitJob(*StubOf(flags), *std::move(request));
  if (!job.ok()) return ReportError(job.status());
  if (flags.json) {
    PrintJson(*job);
  } else {
    std::printf("%s\n", job->id().c_str());
  }
  return 0;
}

int Get(const Flags& flags) {
  grpc::ClientContext context;
  SetCallDeadline(context);
  v1::GetJobRequest request;
  request.set_id(flags.id);
  v1::GetJobResponse response;
  const grpc::Status status = StubOf(flags)->GetJob(&context, request, &response);
  if (!status.ok()) return ReportError(FromGrpc(status));
  PrintJob(response.job(), flags.json);
  return 0;
}

int Cancel(const Flags& flags) {
  grpc::ClientContext context;
  SetCallDeadline(context);
  v1::CancelJobRequest request;
  request.set_id(flags.id);
  v1::CancelJobResponse response;
  const grpc::Status status = StubOf(flags)->CancelJob(&context, request, &response);
  if (!status.ok()) return ReportError(FromGrpc(status));
  PrintJob(response.job(), flags.json);
  return 0;
}

int List(const Flags& flags) {
  const auto stub = StubOf(flags);
  v1::ListJobsRequest request;
  request.set_page_size(100);
  do {
    grpc::ClientContext context;
    SetCallDeadline(context);
    v1::ListJobsResponse response;
    const grpc::Status status = stub->ListJobs(&context, request, &response);
    if (!status.ok()) return ReportError(FromGrpc(status));
    for (const v1::Job& job : response.jobs()) PrintJob(job, flags.json);
    request.set_page_token(response.next_page_token());
  } while (!request.page_token().empty());
  return 0;
}

// Lines of OpenAI's batch output.
int Results(const Flags& flags) {
  const auto stub = StubOf(flags);
  v1::GetJobResultsRequest request;
  request.set_id(flags.id);
  v1::Job job;
  job.set_id(flags.id);
  do {
    grpc::ClientContext context;
    SetCallDeadline(context);
    v1::GetJobResultsResponse response;
    const grpc::Status status = stub->GetJobResults(&context, request, &response);
    if (!status.ok()) return ReportError(FromGrpc(status));
    for (const v1::JobItem& item : response.items()) {
      std::fputs(BatchLine(job, item).c_str(), stdout);
    }
    request.set_page_token(response.next_page_token());
  } while (!request.page_token().empty());
  return 0;
}

struct WatchFlags : Flags {
  uint32_t from = 0;
  std::optional<uint32_t> item;
  uint32_t from_token = 0;
  double wait = 60;
};

void PrintItem(const v1::Job& job, const v1::JobItem& item) {
  std::string why;
  if (item.answer().status_code() != 200) {
    why = absl::StrCat(": ", item.answer().status_code() != 0 ? item.answer().body()
                                                              : item.answer().error_message());
  }
  std::printf("%u/%u item %u %s %s%s\n", item.ended() + 1, job.counts().total(), item.index(),
              item.custom_id().c_str(),
              Short(v1::JobItemState_Name(item.state()), "JOB_ITEM_STATE_").c_str(), why.c_str());
}

// One item's answer while it is generated.
int WatchItem(const WatchFlags& flags, Duration wait) {
  const auto stub = StubOf(flags);
  v1::WatchJobItemRequest request;
  request.set_id(flags.id);
  request.set_index(*flags.item);
  const Client::Open open = [&](grpc::ClientContext* context, uint32_t from_token) {
    request.set_from_token(flags.from_token + from_token);
    return stub->WatchJobItem(context, request);
  };
  Client client(flags.endpoint, flags.api_key);
  if (flags.json) {
    const absl::StatusOr<Client::Answer> answer = client.Follow(open, wait, nullptr);
    if (!answer.ok()) return ReportError(answer.status());
    std::printf("%s\n", AnswerJson(*answer, 0, JsonOptions()).c_str());
    return 0;
  }
  const absl::Status ready = client.WaitReady(wait, Client::Failed::kMayComeBack);
  if (!ready.ok()) return ReportError(ready);
  const absl::StatusOr<v1::GetModelResponse> model = client.GetModel();
  if (!model.ok()) return ReportError(model.status());
  return ShowLive(model->has_tokenizer(), [&](const Client::OnTokens& on_tokens) {
    return client.Follow(open, wait, on_tokens);
  });
}

int Watch(const WatchFlags& flags) {
  const auto wait = std::chrono::duration_cast<Duration>(std::chrono::duration<double>(flags.wait));
  if (flags.item) return WatchItem(flags, wait);
  const auto stub = StubOf(flags);
  v1::WatchJobRequest request;
  request.set_id(flags.id);
  request.set_from(flags.from);
  v1::Job job;
  const absl::Status status =
      WatchToEnd(*stub, request, wait, [&](const v1::WatchJobResponse& response) {
        job = response.job();
        for (const v1::JobItem& item : response.items()) {
          flags.json ? PrintJson(item) : PrintItem(job, item);
        }
        std::fflush(stdout);
      });
  if (!status.ok()) return ReportError(status);
  if (!flags.json) PrintJob(job, false);
  return job.state() == v1::JOB_STATE_COMPLETED ? 0 : kFailed;
}

template <typename F>
CLI::App* AddCommand(CLI::App* jobs, const std::string& name, const std::string& help, bool with_id,
                     const std::shared_ptr<F>& flags, int (*act)(const F&), CommandRun& run) {
  CLI::App* command = jobs->add_subcommand(name, help);
  flags->Declare(command);
  if (with_id) command->add_option("ID", flags->id, "the job's id")->required();
  command->add_flag("--json", flags->json, "JSON objects, one a line");
  command->callback([flags, act, &run] { run = [flags, act] { return act(*flags); }; });
  return command;
}

void AddSubmit(CLI::App* jobs, CommandRun& run) {
  const auto flags = std::make_shared<SubmitFlags>();
  CLI::App* command = jobs->add_subcommand("submit", "Submit a job; prints its id");
  flags->Declare(command);
  CLI::Option_group* work = command->add_option_group("work");
  work->add_option("FILE", flags->file,
                   "JSON lines as OpenAI's batches have them; - is standard input");
  work->add_option("--prompt", flags->prompt, "raw text, after the begin-of-sequence token");
  work->add_option("--prompt-token-ids", flags->prompt_token_ids, "token ids: 1,2,3");
  work->require_option(1);
  command->add_option("--idempotency-key", flags->key,
                      "the same key again returns the job that the first call made");
  command->add_option("--priority", flags->priority, "the lower, the sooner; default 100");
  command->add_option("--expires-after", flags->expires_after, "seconds; default one day");
  command->add_option("--metadata", flags->metadata, "NAME=VALUE; may be given several times")
      ->allow_extra_args(false);
  command->add_flag("--json", flags->json, "the job as a JSON object");
  command->callback([flags, &run] { run = [flags] { return Submit(*flags); }; });
}

}  // namespace

void AddJobs(CLI::App& app, CommandRun& run) {
  CLI::App* jobs = app.add_subcommand("jobs", "Work that survives restarts of the deployment");
  jobs->require_subcommand(1);
  AddSubmit(jobs, run);
  AddCommand(jobs, "get", "State of a job", true, std::make_shared<Flags>(), &Get, run);
  AddCommand(jobs, "list", "All jobs, the newest first", false, std::make_shared<Flags>(), &List,
             run);
  AddCommand(jobs, "cancel", "End a job; what is answered stays", true, std::make_shared<Flags>(),
             &Cancel, run);
  AddCommand(jobs, "results", "Answers so far, as OpenAI's batch output", true,
             std::make_shared<Flags>(), &Results, run);
  const auto flags = std::make_shared<WatchFlags>();
  CLI::App* watch = AddCommand(jobs, "watch", "Follow a job to its end", true, flags, &Watch, run);
  CLI::Option* from = watch->add_option("--from", flags->from, "how many ended items to pass over");
  CLI::Option* item =
      watch->add_option("--item", flags->item, "one item's answer, while it is generated")
          ->excludes(from);
  watch->add_option("--from-token", flags->from_token, "how many of its tokens to pass over")
      ->needs(item);
  watch->add_option("--wait", flags->wait, "seconds to wait for a deployment that is gone")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
}

}  // namespace whalepod
