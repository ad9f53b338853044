// Errors that clients can read by machine: an ErrorDetail travels with an absl::Status as a payload
// and reaches the client in gRPC's status details.
#pragma once

#include <grpcpp/support/status.h>

#include <cstdint>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "whalepod/v1/inference.pb.h"

namespace whalepod {

// INVALID_ARGUMENT: "options.temperature is 3, must be in [0, 2]". `value` is cut to 100 bytes.
absl::Status BadField(const std::string& field, const std::string& reason, const std::string& value,
                      const std::string& limit);

// `status` with a detail attached.
absl::Status WithDetail(absl::Status status, const v1::ErrorDetail& detail);
// The same of a field and a reason alone.
absl::Status WithField(absl::Status status, const std::string& field, const std::string& reason);
// `delay_ms`: when to try again; kRetryMs where nothing better is known.
constexpr uint32_t kRetryMs = 1000;
absl::Status WithRetryDelay(absl::Status status, const std::string& reason, uint32_t delay_ms);

// The detail that was attached.
std::optional<v1::ErrorDetail> DetailOf(const absl::Status& status);

grpc::Status ToGrpcStatus(const absl::Status& status);

}  // namespace whalepod
