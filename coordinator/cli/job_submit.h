// Hands a job in, however long its text is.
#pragma once

#include "absl/status/statusor.h"
#include "whalepod/v1/jobs.grpc.pb.h"

namespace whalepod {

// The job that `request` makes, or has made before. Its text goes in pieces if it is too long for
// one message. Errors are the server's; DEADLINE_EXCEEDED after a minute, five for a long text.
absl::StatusOr<v1::Job> SubmitJob(v1::JobService::StubInterface& stub,
                                  v1::SubmitJobRequest request);

}  // namespace whalepod
