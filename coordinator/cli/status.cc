// whalepod status: what a running deployment says of itself.
#include <cstdio>
#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "base/units.h"
#include "coordinator/cli/client.h"
#include "coordinator/cli/client_flags.h"
#include "coordinator/cli/commands.h"
#include "google/protobuf/util/json_util.h"

namespace whalepod {
namespace {

struct Flags : EndpointFlag {
  bool json = false;
};

void PrintText(const v1::GetStatusResponse& status, const v1::GetModelResponse& model) {
  std::printf("%s%s%s\n", status.state().c_str(), status.message().empty() ? "" : ": ",
              status.message().c_str());
  std::printf("model %s, layout %s, context %u, epoch %llu, steps %llu\n", model.model().c_str(),
              model.layout().c_str(), model.max_model_len(),
              static_cast<unsigned long long>(status.epoch()),
              static_cast<unsigned long long>(status.steps()));
  std::printf("requests: %u running, %u waiting; KV blocks: %u of %u used\n", status.running(),
              status.waiting(), status.kv_blocks_used(), status.kv_blocks_total());
  for (const v1::RankStatus& rank : status.ranks()) {
    std::printf("rank %u  %s on %s, pid %d: %s, %s of %s loaded, step %llu, heard %u ms ago\n",
                rank.rank(), rank.worker().c_str(), rank.host().c_str(), rank.pid(),
                rank.phase().c_str(), FormatBytes(rank.load_bytes_done()).c_str(),
                FormatBytes(rank.load_bytes_total()).c_str(),
                static_cast<unsigned long long>(rank.step_done()), rank.heartbeat_age_ms());
  }
}

int Status(const Flags& flags) {
  Client client(flags.endpoint, flags.api_key);
  const absl::StatusOr<v1::GetStatusResponse> status = client.GetStatus();
  if (!status.ok()) return ReportError(Annotate(status.status(), flags.endpoint));
  if (flags.json) {
    google::protobuf::util::JsonPrintOptions options;
    options.preserve_proto_field_names = true;
    options.always_print_primitive_fields = true;
    std::string json;
    if (!google::protobuf::util::MessageToJsonString(*status, &json, options).ok()) {
      return ReportError(absl::InternalError("the status can't be written as JSON"));
    }
    std::printf("%s\n", json.c_str());
    return 0;
  }
  const absl::StatusOr<v1::GetModelResponse> model = client.GetModel();
  if (!model.ok()) return ReportError(model.status());
  PrintText(*status, *model);
  return 0;
}

}  // namespace

void AddStatus(CLI::App& app, CommandRun& run) {
  const auto flags = std::make_shared<Flags>();
  CLI::App* command = app.add_subcommand("status", "State of a running deployment");
  flags->Declare(command);
  command->add_flag("--json", flags->json, "one JSON object");
  command->callback([flags, &run] { run = [flags] { return Status(*flags); }; });
}

}  // namespace whalepod
