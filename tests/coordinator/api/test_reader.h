// A reader of a ResumableStream that keeps what it is told.
#pragma once

#include <chrono>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "coordinator/api/resumable_stream.h"
#include "gtest/gtest.h"

namespace whalepod {

class TestReader final : public StreamReader, public std::enable_shared_from_this<TestReader> {
 public:
  void Begin(const std::shared_ptr<ResumableStream>& stream, uint32_t from) {
    EXPECT_TRUE(TryBegin(stream, from).ok());
  }
  absl::Status TryBegin(const std::shared_ptr<ResumableStream>& stream, uint32_t from = 0) {
    {
      std::lock_guard lock(mu_);
      stream_ = stream;
      place_.token = from;
    }
    return stream->Attach(shared_from_this());
  }
  void OnMore() override {
    std::lock_guard lock(mu_);
    v1::GenerateResponse message;
    while (!over_) {
      const auto next = stream_->Take(&place_, &message, &status_);
      if (next == ResumableStream::Next::kNothing) break;
      over_ = next != ResumableStream::Next::kMessage;
      if (message.has_started()) ++started_;
      for (const auto& span : message.tokens().spans()) text_ += span.text();
      for (const auto& token : message.tokens().tokens()) ids_.push_back(token.token_id());
      if (message.has_finished()) finished_ = message.finished();
    }
    changed_.notify_all();
  }
  bool WaitTokens(size_t count) {
    std::unique_lock lock(mu_);
    return changed_.wait_for(lock, kLong, [&] { return ids_.size() >= count; });
  }
  bool WaitOver() {
    std::unique_lock lock(mu_);
    return changed_.wait_for(lock, kLong, [&] { return over_; });
  }
  // Reasoning too.
  std::string text() {
    std::lock_guard lock(mu_);
    return text_;
  }
  std::vector<uint32_t> ids() {
    std::lock_guard lock(mu_);
    return ids_;
  }
  absl::Status status() {
    std::lock_guard lock(mu_);
    return status_;
  }
  v1::GenerateResponse::Finished finished() {
    std::lock_guard lock(mu_);
    return finished_;
  }

 private:
  static constexpr std::chrono::seconds kLong{20};
  std::mutex mu_;
  std::condition_variable changed_;
  std::shared_ptr<ResumableStream> stream_;
  ResumableStream::Place place_;
  int started_ = 0;
  bool over_ = false;
  std::vector<uint32_t> ids_;
  std::string text_;
  absl::Status status_;
  v1::GenerateResponse::Finished finished_;
};

}  // namespace whalepod
