// whalepod status: what a running deployment says of itself, once or again and again.
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <memory>
#include <string>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "base/status.h"
#include "coordinator/cli/client.h"
#include "coordinator/cli/client_flags.h"
#include "coordinator/cli/commands.h"
#include "coordinator/cli/message_json.h"
#include "coordinator/cli/status_text.h"

namespace whalepod {
namespace {

constexpr double kWatchSeconds = 2;

struct Flags : EndpointFlag {
  bool json = false;
  bool watch = false;
  double seconds = kWatchSeconds;
};

absl::StatusOr<std::string> Describe(Client& client, const Flags& flags) {
  absl::StatusOr<v1::GetStatusResponse> status = client.GetStatus();
  if (!status.ok()) return Annotate(status.status(), flags.endpoint);
  if (flags.json) {
    ASSIGN_OR_RETURN(const std::string json, MessageJson(*status));
    return json + "\n";
  }
  ASSIGN_OR_RETURN(const v1::GetModelResponse model, client.GetModel());
  return StatusText(*status, model);
}

// In place of what a terminal shows: from its upper left corner, the rest of each line and of the
// screen cleared.
std::string OverScreen(const std::string& text) {
  return absl::StrCat("\x1b[H", absl::StrReplaceAll(text, {{"\n", "\x1b[K\n"}}), "\x1b[J");
}

// Until interrupted; a deployment that does not answer may do so again.
int Watch(const Flags& flags) {
  Client client(flags.endpoint, flags.api_key);
  const bool in_place = !flags.json && isatty(STDOUT_FILENO) == 1;
  while (true) {
    const absl::StatusOr<std::string> text = Describe(client, flags);
    if (!text.ok() && flags.json) {
      ReportError(text.status());
    } else {
      const std::string shown = text.ok() ? *text : absl::StrCat(text.status().ToString(), "\n");
      std::fputs(in_place ? OverScreen(shown).c_str() : shown.c_str(), stdout);
      if (!in_place && !flags.json) std::fputs("\n", stdout);
      if (std::fflush(stdout) != 0) return 1;  // nobody reads it
    }
    std::this_thread::sleep_for(std::chrono::duration<double>(flags.seconds));
  }
}

int Status(const Flags& flags) {
  if (flags.watch) return Watch(flags);
  Client client(flags.endpoint, flags.api_key);
  const absl::StatusOr<std::string> text = Describe(client, flags);
  if (!text.ok()) return ReportError(text.status());
  std::fputs(text->c_str(), stdout);
  return 0;
}

}  // namespace

void AddStatus(CLI::App& app, CommandRun& run) {
  const auto flags = std::make_shared<Flags>();
  CLI::App* command = app.add_subcommand("status", "State of a running deployment");
  flags->Declare(command);
  command->add_flag("--json", flags->json, "one JSON object (a line each with --watch)");
  CLI::Option* watch =
      command->add_option("--watch", flags->seconds, "again every SECONDS, until interrupted")
          ->expected(0, 1)
          ->default_str(absl::StrCat(kWatchSeconds))
          ->check(CLI::Range(0.01, 3600.0))
          ->type_name("[SECONDS]");
  command->callback([flags, watch, &run] {
    flags->watch = watch->count() > 0;
    run = [flags] { return Status(*flags); };
  });
}

}  // namespace whalepod
