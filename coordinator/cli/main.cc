// whalepod: the program people use.
#include "CLI/CLI.hpp"
#include "coordinator/cli/commands.h"

int main(int argc, char** argv) {
  CLI::App app("Whalepod serves DeepSeek-R1 on many machines");
  app.require_subcommand(1);
  whalepod::CommandRun run;
  whalepod::AddServe(app, run);
  whalepod::AddPlan(app, run);
  whalepod::AddGenerate(app, run);
  whalepod::AddChat(app, run);
  whalepod::AddEval(app, run);
  whalepod::AddJobs(app, run);
  whalepod::AddStatus(app, run);
  whalepod::AddUsage(app, run);
  whalepod::AddBench(app, run);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : whalepod::kBadUsage;
  }
  return run();
}
