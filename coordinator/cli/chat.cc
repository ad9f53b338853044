// whalepod chat: a conversation with a running deployment.
#include <pthread.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <cstdio>
#include <iostream>
#include <memory>
#include <string>
#include <thread>

#include "base/status.h"
#include "coordinator/cli/answer.h"
#include "coordinator/cli/client.h"
#include "coordinator/cli/client_flags.h"
#include "coordinator/cli/commands.h"
#include "coordinator/cli/prompts.h"

namespace whalepod {
namespace {

struct Flags : ClientFlags {
  std::string system;
};

// Ctrl-C: ends the answer under way; where there is none, two of them end the program. Signals are
// taken by a thread, since a call cannot be cancelled from a handler. Made before any other thread,
// which would else take them.
class Interrupts {
 public:
  Interrupts() {
    sigemptyset(&signals_);
    sigaddset(&signals_, SIGINT);
    pthread_sigmask(SIG_BLOCK, &signals_, nullptr);
    thread_ = std::thread([this] { Loop(); });
  }
  ~Interrupts() {
    stopping_ = true;
    pthread_kill(thread_.native_handle(), SIGINT);
    thread_.join();
  }

  Canceller canceller;
  std::atomic<bool> answering{false};
  void Forgive() { warned_ = false; }  // a line was given since

 private:
  void Loop() {
    for (int signal = 0; sigwait(&signals_, &signal) == 0;) {
      if (stopping_) return;
      if (answering) {
        warned_ = false;
        canceller.Cancel();
        continue;
      }
      // One may have been meant for an answer that has just ended.
      if (warned_.exchange(true)) _exit(128 + SIGINT);
      constexpr char kHint[] = "\n(Ctrl-C once more, or /exit, to leave)\n> ";
      [[maybe_unused]] const ssize_t written = write(STDOUT_FILENO, kHint, sizeof(kHint) - 1);
    }
  }

  sigset_t signals_;
  std::atomic<bool> stopping_{false};
  std::atomic<bool> warned_{false};
  std::thread thread_;
};

v1::ChatMessage MessageOf(const char* role, std::string content) {
  v1::ChatMessage message;
  message.set_role(role);
  message.set_content(std::move(content));
  return message;
}

class Chat {
 public:
  Chat(const Flags& flags, bool terminal)
      : terminal_(terminal), client_(flags.endpoint, flags.api_key) {
    flags.Fill(&request_);
    system_ = flags.system;
    Forget();
  }

  absl::Status WaitReady(Duration wait) {
    RETURN_IF_ERROR(client_.WaitReady(wait));
    ASSIGN_OR_RETURN(const v1::GetModelResponse model, client_.GetModel());
    if (!model.has_chat()) {
      return absl::FailedPreconditionError(model.model() + " has no chat template that is known");
    }
    if (terminal_) {
      std::printf("%s: Ctrl-C ends an answer, /new a conversation, /exit the program\n",
                  model.model().c_str());
    }
    return absl::OkStatus();
  }

  // Until the end of input, or /exit.
  int Run() {
    for (std::string line; Ask(&line);) {
      if (line == "/exit") break;
      if (const absl::Status valid = CheckUtf8(line); !valid.ok()) {
        exit_ = ReportError(valid);
        continue;
      }
      if (line.find_first_not_of(" \t\r") == std::string::npos) continue;
      if (line == "/new") {
        Forget();
        continue;
      }
      const absl::Status status = Answer(line);
      if (!status.ok() && !absl::IsCancelled(status)) exit_ = ReportError(status);
    }
    return exit_;
  }

 private:
  void Forget() {
    request_.mutable_chat()->clear_messages();
    if (!system_.empty()) *request_.mutable_chat()->add_messages() = MessageOf("system", system_);
  }

  bool Ask(std::string* line) const {
    if (terminal_) {
      std::printf("> ");
      std::fflush(stdout);
    }
    return static_cast<bool>(std::getline(std::cin, *line));
  }

  // Adds the turn to the history if it came to its end, and nothing otherwise.
  absl::Status Answer(const std::string& question) {
    v1::GenerateRequest request = request_;
    *request.mutable_chat()->add_messages() = MessageOf("user", question);
    AnswerPrinter printer(terminal_, /*has_tokenizer=*/true);
    if (terminal_) ShowThinking();
    interrupts_.Forgive();
    interrupts_.canceller.Reset();
    interrupts_.answering = true;
    const absl::StatusOr<Client::Answer> answer = client_.Generate(
        request,
        [&](const v1::GenerateResponse::Tokens& tokens) {
          if (tokens.spans_size() > 0) HideThinking();
          printer.Show(tokens);
        },
        &interrupts_.canceller);
    interrupts_.answering = false;
    HideThinking();
    printer.End();
    if (!answer.ok()) return answer.status();
    request_ = std::move(request);
    *request_.mutable_chat()->add_messages() = MessageOf("assistant", answer->choices[0].text);
    return absl::OkStatus();
  }

  // A line that is not blank until the first text is there.
  void ShowThinking() {
    std::printf("\033[2m...\033[0m");
    std::fflush(stdout);
    thinking_ = true;
  }
  void HideThinking() {
    if (!thinking_) return;
    std::printf("\r\033[K");
    thinking_ = false;
  }

  Interrupts interrupts_;
  const bool terminal_;
  Client client_;
  v1::GenerateRequest request_;  // with the history
  std::string system_;
  bool thinking_ = false;
  int exit_ = 0;
};

int RunChat(const Flags& flags) {
  if (const absl::Status valid = CheckUtf8(flags.system); !valid.ok()) {
    return ReportError(Annotate(valid, "--system"));
  }
  Chat chat(flags, OnTerminal());
  if (const absl::Status ready = chat.WaitReady(flags.WaitTime()); !ready.ok())
    return ReportError(ready);
  return chat.Run();
}

}  // namespace

void AddChat(CLI::App& app, CommandRun& run) {
  const auto flags = std::make_shared<Flags>();
  CLI::App* command = app.add_subcommand("chat", "A conversation with a running deployment");
  flags->Declare(command);
  command->add_option("--system", flags->system, "the system prompt");
  command->callback([flags, &run] { run = [flags] { return RunChat(*flags); }; });
}

}  // namespace whalepod
