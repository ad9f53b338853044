// The commands of `whalepod`, a file each. AddX declares the subcommand; when it is the one given,
// parsing stores what to run, which returns the process's exit status.
#pragma once

#include <functional>

#include "CLI/CLI.hpp"

namespace whalepod {

using CommandRun = std::function<int()>;

void AddServe(CLI::App& app, CommandRun& run);
void AddPlan(CLI::App& app, CommandRun& run);
void AddGenerate(CLI::App& app, CommandRun& run);
void AddChat(CLI::App& app, CommandRun& run);
void AddEval(CLI::App& app, CommandRun& run);
void AddJobs(CLI::App& app, CommandRun& run);
void AddStatus(CLI::App& app, CommandRun& run);
void AddUsage(CLI::App& app, CommandRun& run);
void AddBench(CLI::App& app, CommandRun& run);
// A subcommand of bench.
CLI::App* AddBenchServe(CLI::App& bench, CommandRun& run);

// Exit statuses besides 0.
inline constexpr int kFailed = 1;
inline constexpr int kBadUsage = 2;

}  // namespace whalepod
