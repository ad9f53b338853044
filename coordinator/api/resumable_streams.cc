#include "coordinator/api/resumable_streams.h"

#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "base/status.h"
#include "coordinator/api/errors.h"
#include "coordinator/api/prompt.h"
#include "coordinator/api/sampling_options.h"
#include "coordinator/jobs/job_store.h"

namespace whalepod {
namespace {

constexpr std::chrono::seconds kSweepEvery(1);
constexpr int kThreads = 2;
constexpr size_t kMostWaiting = 256;
constexpr uint32_t kRoomRetryMs = 10'000;  // room comes within the window, minutes

int64_t Milliseconds(Duration duration) {
  return std::chrono::duration_cast<std::chrono::milliseconds>(duration).count();
}

absl::Status CheckResumable(const CheckedGenerate& checked) {
  if (checked.n > 1) {
    return BadField("options.n", "CONTRADICTION", absl::StrCat(checked.n),
                    "1 where the request is resumable");
  }
  if (checked.request.sampling.has_prompt_logprobs()) {
    return BadField("options.prompt_logprobs", "CONTRADICTION",
                    absl::StrCat(checked.request.sampling.prompt_logprobs()),
                    "absent where the request is resumable");
  }
  return absl::OkStatus();
}

// Makes the request ask for the same of any deployment of the model: of one with another tokenizer
// too, where ids alone tell whether the output begins within reasoning.
void Pin(const Frontend::Admitted& admitted, v1::GenerateRequest* request) {
  PinSampling(admitted.checked.request.sampling, request->mutable_options());
  v1::TokenIds ids;
  const std::vector<uint32_t>& prompt = admitted.checked.request.prompt;
  ids.mutable_ids()->Assign(prompt.begin(), prompt.end());
  if (PromptOfIds(admitted.model->text, ids).reasoning != admitted.checked.reasoning) return;
  *request->mutable_token_ids() = std::move(ids);
}

}  // namespace

ResumableStreams::ResumableStreams(Frontend* frontend, StreamStore* store, const Options& options)
    : frontend_(frontend), store_(store), options_(options), pool_(kThreads, kMostWaiting) {
  if (store_ != nullptr) thread_ = std::thread([this] { Loop(); });
}

ResumableStreams::~ResumableStreams() {
  if (store_ == nullptr) return;
  {
    std::lock_guard lock(mu_);
    stopping_ = true;
  }
  wake_.notify_all();
  thread_.join();
  if (const absl::Status status = Save(); !status.ok()) {
    spdlog::error("resumable requests: {}", status.ToString());
  }
  std::lock_guard lock(mu_);
  for (const auto& [id, active] : active_) active.stream->Cancel();
}

absl::Status ResumableStreams::Run(std::function<void()> work) {
  if (store_ == nullptr) {
    return WithField(absl::FailedPreconditionError(
                         "resumable requests need a folder that keeps them: --state-dir"),
                     "resumable", "NO_STATE_DIR");
  }
  if (pool_.Run(std::move(work))) return absl::OkStatus();
  return WithRetryDelay(absl::ResourceExhaustedError(absl::StrCat(
                            "more than ", kMostWaiting, " calls of resumable requests wait")),
                        "QUEUE_FULL", kRetryMs);
}

std::shared_ptr<ResumableStream> ResumableStreams::Find(const StreamId& id) const {
  std::lock_guard lock(mu_);
  const auto active = active_.find(id);
  if (active != active_.end()) return active->second.stream;
  const auto restored = restored_.find(id);
  return restored == restored_.end() ? nullptr : restored->second.stream.lock();
}

void ResumableStreams::Generate(Frontend::Admitted admitted, RequestRecord record,
                                const StreamId& id,
                                const std::shared_ptr<ResumableStream>& stream) {
  record.SetResumable();
  const auto generation =
      std::make_shared<Generation>(stream.get(), frontend_->clock(), std::move(record));
  stream->SetGeneration(generation);
  generation->Begin(admitted.engine, std::move(admitted.checked), id.id, *admitted.model);
}

absl::StatusOr<std::shared_ptr<ResumableStream>> ResumableStreams::Begin(
    v1::GenerateRequest request, const std::string& caller, RequestRecord record) {
  std::optional<RequestRecord> mine(std::move(record));
  absl::StatusOr<std::shared_ptr<ResumableStream>> stream =
      Start(std::move(request), caller, &mine);
  if (!stream.ok() && mine) {
    const std::optional<v1::ErrorDetail> detail = DetailOf(stream.status());
    mine->OnEnd(stream.status(), detail ? detail->reason() : "", frontend_->clock()->Now());
  }
  return stream;
}

absl::StatusOr<std::shared_ptr<ResumableStream>> ResumableStreams::Start(
    v1::GenerateRequest request, const std::string& caller, std::optional<RequestRecord>* record) {
  (*record)->SetId(request.request_id());
  {
    std::lock_guard lock(mu_);
    // A full disk may have room for what is new; one that fails must be looked at first.
    if (!absl::IsResourceExhausted(failing_)) RETURN_IF_ERROR(failing_);
  }
  ASSIGN_OR_RETURN(Frontend::Admitted admitted,
                   frontend_->Admit(request, caller, (*record)->arrival()));
  RETURN_IF_ERROR(CheckResumable(admitted.checked));
  request.DiscardUnknownFields();
  if (request.request_id().empty()) request.set_request_id(NewId("gen-"));
  Pin(admitted, &request);
  const StreamId id{caller, request.request_id()};

  std::lock_guard beginning(begin_mu_);
  const absl::StatusOr<int64_t> key = store_->Add(id, request, admitted.model->identity);
  if (absl::IsOutOfRange(key.status())) {
    return WithRetryDelay(absl::ResourceExhaustedError(key.status().message()),
                          "TOO_MANY_RESUMABLE", kRoomRetryMs);
  }
  RETURN_IF_ERROR(key.status());
  auto stream = std::make_shared<ResumableStream>(frontend_->clock());
  Generate(std::move(admitted), *std::exchange(*record, std::nullopt), id, stream);
  if (absl::Status refused = stream->interrupted(); !refused.ok()) {
    RETURN_IF_ERROR(store_->Remove(*key));
    return refused;
  }
  std::lock_guard lock(mu_);
  active_[id] = {.key = *key, .saved = 0, .stream = stream};
  return stream;
}

absl::StatusOr<std::shared_ptr<ResumableStream>> ResumableStreams::Resume(
    const std::string& request_id, const std::string& caller) {
  const StreamId id{caller, request_id};
  std::lock_guard beginning(begin_mu_);
  if (std::shared_ptr<ResumableStream> stream = Find(id)) return stream;
  ASSIGN_OR_RETURN(StoredStream stored, store_->Read(id));
  if (!stored.end.has_value()) return Revive(id, std::move(stored));
  return Restore(id, std::move(stored));
}

std::shared_ptr<ResumableStream> ResumableStreams::Restore(const StreamId& id,
                                                           StoredStream stored) {
  auto stream = std::make_shared<ResumableStream>(frontend_->clock());
  stream->Extend(0, std::move(stored.events), *std::move(stored.end));
  std::lock_guard lock(mu_);
  restored_[id] = {.key = stored.key, .stream = stream};
  return stream;
}

absl::StatusOr<std::shared_ptr<ResumableStream>> ResumableStreams::Revive(const StreamId& id,
                                                                          StoredStream stored) {
  RequestRecord record = frontend_->NewRecord(Transport::kGrpc);
  ASSIGN_OR_RETURN(Frontend::Admitted admitted,
                   frontend_->Admit(stored.request, id.tenant, record.arrival()));
  if (admitted.model->identity != stored.model) {
    return absl::FailedPreconditionError(
        absl::StrCat("request \"", id.id, "\" was begun with other weights or another precision ",
                     "than are served now: it cannot go on with the same tokens"));
  }
  for (v1::GenerateResponse& event : *stored.events.mutable_events()) {
    for (v1::GeneratedToken& token : *event.mutable_tokens()->mutable_tokens()) {
      admitted.checked.history.push_back(std::move(token));
    }
  }
  auto stream = std::make_shared<ResumableStream>(frontend_->clock());
  Generate(std::move(admitted), std::move(record), id, stream);
  RETURN_IF_ERROR(stream->interrupted());
  std::lock_guard lock(mu_);
  active_[id] = {.key = stored.key,
                 .saved = static_cast<uint32_t>(stored.events.events_size()),
                 .stream = stream};
  return stream;
}

absl::Status ResumableStreams::Cancel(const std::string& request_id, const std::string& caller) {
  const StreamId id{caller, request_id};
  std::lock_guard beginning(begin_mu_);
  if (const std::shared_ptr<ResumableStream> stream = Find(id)) {
    stream->Cancel();
    return absl::OkStatus();
  }
  ASSIGN_OR_RETURN(const StoredStream stored, store_->Read(id));
  if (stored.end.has_value()) return absl::OkStatus();
  StreamAddition addition{.key = stored.key};
  addition.end = EndOf(Aborted());
  return store_->Append({addition});
}

void ResumableStreams::Loop() {
  TimePoint sweep_at{};
  while (true) {
    {
      std::unique_lock lock(mu_);
      wake_.wait_for(lock, options_.flush, [this] { return stopping_; });
      if (stopping_) return;
    }
    absl::Status status = Save();
    const TimePoint now = frontend_->clock()->Now();
    if (now >= sweep_at) {
      sweep_at = now + kSweepEvery;
      const std::set<int64_t> cared_for = Sweep();
      if (status.ok()) {
        status = store_->Expire(options_.now_ms() - Milliseconds(options_.window), cared_for);
      }
    }
    std::lock_guard lock(mu_);
    // Once, not each time: streams go on without, and what is missing is tried again.
    if (!status.ok() && failing_.ok()) spdlog::error("resumable requests: {}", status.ToString());
    failing_ = status;
  }
}

absl::Status ResumableStreams::Save() {
  std::vector<StreamAddition> additions;
  std::map<int64_t, uint32_t> saved;
  std::set<int64_t> over;  // ended, or the deployment went down under them
  {
    std::lock_guard lock(mu_);
    for (const auto& [id, active] : active_) {
      if (!active.stream->interrupted().ok()) over.insert(active.key);
      ResumableStream::Unsaved unsaved = active.stream->After(active.saved);
      if (unsaved.end.has_value()) over.insert(active.key);
      saved[active.key] = active.saved + static_cast<uint32_t>(unsaved.events.events_size());
      if (unsaved.events.events_size() == 0 && !unsaved.end.has_value()) continue;
      additions.push_back(
          {active.key, active.saved, std::move(unsaved.events), std::move(unsaved.end)});
    }
  }
  if (!additions.empty()) RETURN_IF_ERROR(store_->Append(additions));
  NoteSaved(saved, over);
  return absl::OkStatus();
}

void ResumableStreams::NoteSaved(const std::map<int64_t, uint32_t>& saved,
                                 const std::set<int64_t>& over) {
  std::lock_guard lock(mu_);
  for (auto& [id, active] : active_) {
    const auto it = saved.find(active.key);
    if (it != saved.end()) active.saved = it->second;
  }
  std::erase_if(active_, [&over](const auto& entry) { return over.contains(entry.second.key); });
}

std::set<int64_t> ResumableStreams::Sweep() {
  const TimePoint now = frontend_->clock()->Now();
  std::set<int64_t> cared_for;
  std::vector<std::shared_ptr<ResumableStream>> read;
  std::vector<Active> unread;
  {
    std::lock_guard lock(mu_);
    // Also those that have ended and cannot be saved.
    std::erase_if(active_, [&](const auto& entry) {
      const Active& active = entry.second;
      const bool idle = active.stream->IdleFor(now) > options_.window;
      if (idle) {
        unread.push_back(active);
      } else {
        cared_for.insert(active.key);
        read.push_back(active.stream);
      }
      return idle;
    });
    std::erase_if(restored_, [&](const auto& entry) {
      std::shared_ptr<ResumableStream> stream = entry.second.stream.lock();
      if (stream == nullptr) return true;
      cared_for.insert(entry.second.key);
      read.push_back(std::move(stream));
      return false;
    });
  }
  for (const Active& active : unread) {
    active.stream->Cancel();
    // What cannot be removed now expires later.
    if (const absl::Status status = store_->Remove(active.key); !status.ok()) {
      spdlog::warn("resumable requests: {}", status.ToString());
    }
  }
  for (const std::shared_ptr<ResumableStream>& stream : read) {
    stream->CheckReaders(now - options_.stall);
  }
  return cared_for;
}

}  // namespace whalepod
