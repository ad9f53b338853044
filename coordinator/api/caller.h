// Who makes a gRPC call.
#pragma once

#include <grpcpp/grpcpp.h>

#include <string>

#include "absl/status/statusor.h"
#include "coordinator/api/frontend.h"

namespace whalepod {

// Frontend::CallerOf the key in the call's metadata.
inline absl::StatusOr<std::string> CallerOf(const Frontend& frontend,
                                            const grpc::CallbackServerContext& context) {
  const auto it = context.client_metadata().find("authorization");
  if (it == context.client_metadata().end()) return frontend.CallerOf("");
  return frontend.CallerOf({it->second.data(), it->second.size()});
}

}  // namespace whalepod
