// One resumable generation in memory: what it has answered by now, for whoever reads it.
#pragma once

#include <chrono>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "base/clock.h"
#include "coordinator/api/generation.h"
#include "whalepod/v1/inference.pb.h"
#include "whalepod/v1/journal.pb.h"

namespace whalepod {

// How a stream ends that somebody has cancelled. Not CANCELLED: a client sees that when its server
// is shut down, and is to come back.
absl::Status Aborted();
v1::JournalEnd EndOf(const absl::Status& status);

// A reader that has taken nothing for so long is to be cut off.
constexpr Duration kReaderStall = std::chrono::seconds(30);

// Who reads a stream. Called from any thread, without the stream's lock; must not block.
class StreamReader {
 public:
  virtual ~StreamReader() = default;
  // There is more to read, or maybe not.
  virtual void OnMore() = 0;
  // From time to time: a reader that has taken nothing since `since` is to be cut off.
  virtual void CheckStall(TimePoint since) {}
};

// Thread-safe. Events are numbered: 0 is Started, i + 1 is token i with the text it adds.
class ResumableStream final : public ResponseWriter,
                              public std::enable_shared_from_this<ResumableStream> {
 public:
  // `clock` outlives this.
  explicit ResumableStream(const Clock* clock) : clock_(clock), idle_since_(clock->Now()) {}

  // The generation that writes to this, and outlives its end.
  void SetGeneration(std::shared_ptr<Generation> generation) {
    generation_ = std::move(generation);
  }
  void Cancel() {
    if (generation_ != nullptr) generation_->Cancel();
  }
  // From elsewhere than a generation: events `first`, first + 1, ... of the answer, of which those
  // are taken that follow what there is, and the end; nothing once it is over.
  void Extend(uint32_t first, v1::JournalEvents events, std::optional<v1::JournalEnd> end);
  // How many events there are.
  uint32_t events() const;
  bool over() const;
  // It is over, and not well.
  bool failed() const;

  // ResponseWriter: from the generation.
  bool Write(const v1::GenerateResponse& message, bool last) override;
  void Finish(const absl::Status& status) override;
  void Abandon() override {}

  // Tells `reader`, while it lives, of what comes from now on. RESOURCE_EXHAUSTED: many others read
  // it, each of which takes some of the engine's time for each token.
  absl::Status Attach(const std::shared_ptr<StreamReader>& reader);
  void Detach(const StreamReader* reader);

  // Where a reader is.
  struct Place {
    bool started = false;  // it has Started
    uint32_t token = 0;    // and the tokens before this one
  };
  enum class Next { kNothing, kMessage, kLast, kError };
  // What comes next for a reader: nothing yet; a message, of many tokens where they are there; the
  // last message; or the status with which it ends.
  Next Take(Place* place, v1::GenerateResponse* message, absl::Status* status) const;

  // What is not yet in the journal, after `events` of them. The last event is left out until the
  // next one or the end, so that what is in the journal of one that has not ended can be gone on
  // with.
  struct Unsaved {
    v1::JournalEvents events;
    std::optional<v1::JournalEnd> end;
  };
  Unsaved After(uint32_t events) const;

  // It can neither go on nor has it ended: the deployment went down under it, or would not have it.
  absl::Status interrupted() const;
  // How long nobody has read it; 0 while somebody does.
  Duration IdleFor(TimePoint now);
  // Has the readers check themselves.
  void CheckReaders(TimePoint since);

 private:
  std::vector<std::shared_ptr<StreamReader>> ReadersLocked() const;
  // Forgets `reader`, and those that are gone.
  void DetachLocked(const StreamReader* reader);
  uint32_t EventsLocked() const {
    return static_cast<uint32_t>(tokens_.size()) + (started_.has_value() ? 1 : 0);
  }
  void AddLocked(const v1::GenerateResponse& event);
  bool OverLocked() const { return end_.has_value() || !interrupted_.ok(); }

  const Clock* const clock_;
  std::shared_ptr<Generation> generation_;  // null: of an earlier deployment

  mutable std::mutex mu_;
  std::optional<v1::GenerateResponse> started_;
  std::deque<std::string> tokens_;  // GenerateResponses: parsed they take five times as much
  std::optional<v1::JournalEnd> end_;
  absl::Status interrupted_;
  std::vector<std::weak_ptr<StreamReader>> readers_;
  TimePoint idle_since_;
};

}  // namespace whalepod
