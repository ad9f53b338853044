// OpenAI's batch files: JSON lines in, JSON lines out.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "coordinator/api/openai_request.h"
#include "coordinator/jobs/job_store.h"
#include "whalepod/v1/jobs.pb.h"

namespace whalepod {

constexpr size_t kMostBatchLines = 50'000;
// What a line, or a whole batch, may ask for.
constexpr char kChatUrl[] = "/v1/chat/completions";
constexpr char kCompletionUrl[] = "/v1/completions";

// One item for each line that is not blank; `url`: what all must ask for, empty: either. A line
// that is no request is an item that has failed, and says why and which line it is.
// INVALID_ARGUMENT: there are no lines, or too many.
absl::StatusOr<std::vector<NewItem>> ParseBatch(absl::string_view text, const std::string& url);

// An item's request, as it was accepted. INVALID_ARGUMENT for one that no longer is.
absl::StatusOr<OpenAiRequest> ParseItem(RequestKind kind, const std::string& request);

// The line of an item that has ended, with its "\n".
std::string BatchLine(const v1::Job& job, const v1::JobItem& item);

// How HTTP would have answered `status`.
v1::JobAnswer AnswerOfError(const absl::Status& status);

}  // namespace whalepod
