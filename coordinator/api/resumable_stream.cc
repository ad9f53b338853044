#include "coordinator/api/resumable_stream.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "coordinator/api/errors.h"

namespace whalepod {
namespace {

// Of one message to a reader that has fallen behind: with 20 best ids each 64 kilobytes.
constexpr uint32_t kMostTokens = 256;
constexpr size_t kMostReaders = 16;

void TellReaders(const std::vector<std::shared_ptr<StreamReader>>& readers) {
  for (const std::shared_ptr<StreamReader>& reader : readers) reader->OnMore();
}

}  // namespace

absl::Status Aborted() { return absl::AbortedError("ended by CancelGenerate"); }

v1::JournalEnd EndOf(const absl::Status& status) {
  v1::JournalEnd end;
  end.set_code(static_cast<int>(status.code()));
  end.set_message(std::string(status.message()));
  return end;
}

void ResumableStream::AddLocked(const v1::GenerateResponse& event) {
  if (event.has_started()) {
    started_ = event;
  } else {
    tokens_.push_back(event.SerializeAsString());
  }
}

void ResumableStream::Extend(uint32_t first, v1::JournalEvents events,
                             std::optional<v1::JournalEnd> end) {
  std::vector<std::shared_ptr<StreamReader>> readers;
  {
    std::lock_guard lock(mu_);
    if (OverLocked()) return;
    for (const v1::GenerateResponse& event : events.events()) {
      if (first++ == EventsLocked()) AddLocked(event);
    }
    end_ = std::move(end);
    readers = ReadersLocked();
  }
  TellReaders(readers);
}

uint32_t ResumableStream::events() const {
  std::lock_guard lock(mu_);
  return EventsLocked();
}

bool ResumableStream::over() const {
  std::lock_guard lock(mu_);
  return OverLocked();
}

bool ResumableStream::failed() const {
  std::lock_guard lock(mu_);
  return OverLocked() && !(end_.has_value() && end_->has_finished());
}

// Once the end is known to others they may let the stream go: it is not touched after the lock.
bool ResumableStream::Write(const v1::GenerateResponse& message, bool last) {
  std::vector<std::shared_ptr<StreamReader>> readers;
  const std::shared_ptr<ResumableStream> self = shared_from_this();
  {
    std::lock_guard lock(mu_);
    CHECK_LE(message.tokens().tokens_size(), 1);
    if (message.has_started() || message.has_tokens()) AddLocked(message);
    if (message.has_finished()) *end_.emplace().mutable_finished() = message;
    CHECK_EQ(last, end_.has_value());
    readers = ReadersLocked();
  }
  TellReaders(readers);
  return true;
}

void ResumableStream::Finish(const absl::Status& status) {
  std::vector<std::shared_ptr<StreamReader>> readers;
  const std::shared_ptr<ResumableStream> self = shared_from_this();
  {
    std::lock_guard lock(mu_);
    if (absl::IsUnavailable(status) || !started_.has_value()) {
      interrupted_ = status;
    } else {
      end_ = EndOf(absl::IsCancelled(status) ? Aborted() : status);
    }
    readers = ReadersLocked();
  }
  TellReaders(readers);
}

std::vector<std::shared_ptr<StreamReader>> ResumableStream::ReadersLocked() const {
  std::vector<std::shared_ptr<StreamReader>> readers;
  for (const std::weak_ptr<StreamReader>& reader : readers_) {
    if (std::shared_ptr<StreamReader> lives = reader.lock()) readers.push_back(std::move(lives));
  }
  return readers;
}

absl::Status ResumableStream::Attach(const std::shared_ptr<StreamReader>& reader) {
  bool full = false;
  {
    std::lock_guard lock(mu_);
    DetachLocked(nullptr);
    full = readers_.size() >= kMostReaders;
    if (!full) readers_.push_back(reader);
  }
  if (full) {
    // Those that have taken nothing for long give way to who asks next.
    CheckReaders(clock_->Now() - kReaderStall);
    return WithRetryDelay(absl::ResourceExhaustedError(absl::StrCat("more than ", kMostReaders,
                                                                    " clients read this answer")),
                          "TOO_MANY_READERS", kRetryMs);
  }
  reader->OnMore();
  return absl::OkStatus();
}

void ResumableStream::CheckReaders(TimePoint since) {
  std::vector<std::shared_ptr<StreamReader>> readers;
  {
    std::lock_guard lock(mu_);
    readers = ReadersLocked();
  }
  for (const std::shared_ptr<StreamReader>& reader : readers) reader->CheckStall(since);
}

void ResumableStream::Detach(const StreamReader* reader) {
  std::lock_guard lock(mu_);
  DetachLocked(reader);
}

void ResumableStream::DetachLocked(const StreamReader* reader) {
  const size_t gone = std::erase_if(readers_, [reader](const std::weak_ptr<StreamReader>& one) {
    const std::shared_ptr<StreamReader> lives = one.lock();
    return lives == nullptr || lives.get() == reader;
  });
  if (gone > 0 && readers_.empty()) idle_since_ = clock_->Now();
}

ResumableStream::Next ResumableStream::Take(Place* place, v1::GenerateResponse* message,
                                            absl::Status* status) const {
  std::lock_guard lock(mu_);
  message->Clear();
  if (started_.has_value() && !std::exchange(place->started, true)) {
    *message = *started_;
    return Next::kMessage;
  }
  const auto there = static_cast<uint32_t>(tokens_.size());
  if (place->token < there) {
    const uint32_t end = std::min(there, place->token + kMostTokens);
    while (place->token < end) CHECK(message->MergeFromString(tokens_[place->token++]));
    return Next::kMessage;
  }
  if (end_.has_value() && end_->has_finished() && place->token > there) {
    *status = absl::OutOfRangeError(
        absl::StrCat("from_token is ", place->token, ", the answer has ", there, " tokens"));
    return Next::kError;
  }
  if (end_.has_value() && end_->has_finished()) {
    *message = end_->finished();
    return Next::kLast;
  }
  if (!OverLocked()) return Next::kNothing;
  *status = end_.has_value()
                ? absl::Status(static_cast<absl::StatusCode>(end_->code()), end_->message())
                : interrupted_;
  return Next::kError;
}

ResumableStream::Unsaved ResumableStream::After(uint32_t events) const {
  std::lock_guard lock(mu_);
  Unsaved unsaved;
  unsaved.end = end_;
  const uint32_t there = EventsLocked();
  const uint32_t certain = end_.has_value() || there == 0 ? there : there - 1;
  for (uint32_t i = events; i < certain; ++i) {
    v1::GenerateResponse* const event = unsaved.events.add_events();
    if (i == 0) *event = *started_;
    if (i > 0) CHECK(event->ParseFromString(tokens_[i - 1]));
  }
  return unsaved;
}

absl::Status ResumableStream::interrupted() const {
  std::lock_guard lock(mu_);
  return interrupted_;
}

Duration ResumableStream::IdleFor(TimePoint now) {
  std::lock_guard lock(mu_);
  DetachLocked(nullptr);
  return readers_.empty() ? now - idle_since_ : Duration(0);
}

}  // namespace whalepod
