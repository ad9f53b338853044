// whalepod usage: what API keys have used by day, and what it cost.
#include <cstdio>
#include <map>
#include <memory>
#include <string>

#include "base/status.h"
#include "coordinator/cli/client.h"
#include "coordinator/cli/client_flags.h"
#include "coordinator/cli/commands.h"
#include "coordinator/cli/usage_text.h"

namespace whalepod {
namespace {

struct Flags : EndpointFlag {
  std::string from, to;
  UsageBy by = UsageBy::kBoth;
  bool json = false;
};

int Usage(const Flags& flags) {
  v1::GetUsageRequest request;
  request.set_from_day(flags.from);
  request.set_to_day(flags.to);
  const auto usage = Client(flags.endpoint, flags.api_key).GetUsage(request);
  if (!usage.ok()) return ReportError(Annotate(usage.status(), flags.endpoint));
  const std::string text = flags.json ? UsageJson(*usage, flags.by) : UsageText(*usage, flags.by);
  std::fputs(text.c_str(), stdout);
  return 0;
}

}  // namespace

void AddUsage(CLI::App& app, CommandRun& run) {
  const auto flags = std::make_shared<Flags>();
  CLI::App* command =
      app.add_subcommand("usage", "Tokens that API keys have used by day, and their cost");
  flags->Declare(command);
  command->add_option("--from", flags->from,
                      "first day, UTC, such as 2026-11-29; default 29 days before the last");
  command->add_option("--to", flags->to, "last day, UTC; default today");
  const std::map<std::string, UsageBy> by = {
      {"key", UsageBy::kKey}, {"day", UsageBy::kDay}, {"both", UsageBy::kBoth}};
  command->add_option("--by", flags->by, "what is summed up: a line for each key, day, or both")
      ->transform(CLI::CheckedTransformer(by))
      ->default_str("both")
      ->option_text("key, day or both; default both");
  command->add_flag("--json", flags->json, "one JSON object");
  command->callback([flags, &run] { run = [flags] { return Usage(*flags); }; });
}

}  // namespace whalepod
