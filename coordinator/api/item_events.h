// The answer of a job's item as the messages that it came by: gathered, and told again.
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "whalepod/v1/inference.pb.h"
#include "whalepod/v1/jobs.pb.h"
#include "whalepod/v1/journal.pb.h"

namespace whalepod {

// Adds a message to `answer`, which has as many choices as were asked for. A message has at most
// one token.
void Gather(const v1::GenerateResponse& message, v1::JobAnswer* answer);

// What a watcher is told of such a message.
v1::GenerateResponse ForWatcher(const v1::GenerateResponse& message);
// What `answer`, of one choice, has by now, from event `first` on, as ForWatcher told of it: 0 is
// Started, i + 1 is token i.
v1::JournalEvents EventsOf(const v1::JobAnswer& answer, uint32_t first);
// How an item that has ended does so for its watchers: with Finished, or as NoAnswer says.
v1::JournalEnd EndOf(const v1::JobItem& item);
// ABORTED: what ended it, `answer`, is none.
absl::Status NoAnswer(uint32_t index, const v1::JobAnswer& answer);

}  // namespace whalepod
