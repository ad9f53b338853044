#include "coordinator/cli/job_watch.h"

#include <grpcpp/grpcpp.h>

#include <chrono>
#include <thread>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "coordinator/cli/client.h"

namespace whalepod {
namespace {

constexpr auto kReconnect = std::chrono::milliseconds(200);

}  // namespace

absl::Status WatchToEnd(v1::JobService::StubInterface& stub, v1::WatchJobRequest request,
                        Duration wait,
                        const std::function<void(const v1::WatchJobResponse&)>& on_items) {
  TimePoint give_up = Clock::Real()->Now() + wait;
  for (;;) {
    grpc::ClientContext context;
    const auto reader = stub.WatchJob(&context, request);
    v1::WatchJobResponse response;
    while (reader->Read(&response)) {
      give_up = Clock::Real()->Now() + wait;
      on_items(response);
      for (const v1::JobItem& item : response.items()) request.set_from(item.ended() + 1);
    }
    const absl::Status status = FromGrpc(reader->Finish());
    if (status.ok()) return status;
    if (!absl::IsUnavailable(status) || Clock::Real()->Now() > give_up) {
      return Annotate(status, absl::StrCat("after ", request.from(), " items"));
    }
    std::this_thread::sleep_for(kReconnect);
  }
}

}  // namespace whalepod
