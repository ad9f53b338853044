// A server that speaks OpenAI's API over plain HTTP.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "base/clock.h"
#include "coordinator/cli/bench/load.h"

namespace whalepod {

struct HttpTargetOptions {
  std::string base_url;                                      // http://HOST[:PORT][/PREFIX]
  std::string api_key;                                       // empty: none
  std::string model;                                         // empty: the first one served
  Duration wait = std::chrono::seconds(60);                  // for the server to answer
  std::chrono::seconds silence = std::chrono::seconds(600);  // after which a call fails
};

class HttpTarget : public LoadTarget {
 public:
  // Asks the server for its models until it answers and its /health, if it has that, is not 503.
  // INVALID_ARGUMENT for a URL that is none, or not of http; DEADLINE_EXCEEDED with what was heard
  // last; NOT_FOUND if it has no model.
  static absl::StatusOr<std::unique_ptr<HttpTarget>> Connect(HttpTargetOptions options);

  virtual const std::string& model() const = 0;
};

}  // namespace whalepod
