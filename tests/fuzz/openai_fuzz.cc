// Bodies of HTTP requests. Input: a first byte that chooses the endpoint, then the body.
#include <cstdint>
#include <string>

#include "coordinator/api/openai_request.h"
#include "coordinator/api/openai_response.h"
#include "tests/fuzz/fuzz.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t size) {
  if (size == 0) return 0;
  const std::string body(reinterpret_cast<const char*>(bytes) + 1, size - 1);
  absl::Status status;
  switch (bytes[0] % 4) {
    case 0:
      status = whalepod::ParseChatCompletion(body).status();
      break;
    case 1:
      status = whalepod::ParseCompletion(body).status();
      break;
    case 2:
      status = whalepod::ParseTokenize(body).status();
      break;
    default:
      status = whalepod::ParseDetokenize(body).status();
  }
  if (status.ok()) return 0;
  // Every error can be told, and is the client's.
  const whalepod::HttpError error = whalepod::ToHttpError(status);
  FUZZ_CHECK(error.status == 400);
  FUZZ_CHECK(nlohmann::json::accept(error.body));
  FUZZ_CHECK(error.body.size() < 4096);
  return 0;
}
