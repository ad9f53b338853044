#include "coordinator/api/resumable_streams.h"

#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "base/status.h"
#include "coordinator/api/errors.h"
#include "coordinator/api/sampling_options.h"
#include "coordinator/jobs/job_store.h"

namespace whalepod {
namespace {

constexpr std::chrono::seconds kSweepEvery(1);

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

}  // namespace

ResumableStreams::ResumableStreams(Frontend* frontend, StreamStore* store, const Options& options)
    : frontend_(frontend), store_(store), options_(options) {
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
  for (const auto& [id, active] : active_) active.stream->Cancel();
}

absl::Status ResumableStreams::Enabled() const {
  if (store_ != nullptr) return absl::OkStatus();
  return WithField(absl::FailedPreconditionError(
                       "resumable requests need a folder that keeps them: --state-dir"),
                   "resumable", "NO_STATE_DIR");
}

std::shared_ptr<ResumableStream> ResumableStreams::Find(const StreamId& id) const {
  std::lock_guard lock(mu_);
  const auto it = active_.find(id);
  return it == active_.end() ? nullptr : it->second.stream;
}

void ResumableStreams::Generate(Frontend::Admitted admitted, const StreamId& id,
                                const std::shared_ptr<ResumableStream>& stream) {
  RequestRecord record = frontend_->NewRecord(Transport::kGrpc);
  record.SetResumable();
  const auto generation =
      std::make_shared<Generation>(stream.get(), frontend_->clock(), std::move(record));
  stream->SetGeneration(generation);
  generation->Begin(admitted.engine, std::move(admitted.checked), id.id, *admitted.model);
}

absl::StatusOr<std::shared_ptr<ResumableStream>> ResumableStreams::Begin(
    v1::GenerateRequest request, const std::string& caller) {
  RETURN_IF_ERROR(Enabled());
  ASSIGN_OR_RETURN(Frontend::Admitted admitted,
                   frontend_->Admit(request, caller, frontend_->clock()->Now()));
  RETURN_IF_ERROR(CheckResumable(admitted.checked));
  if (request.request_id().empty()) request.set_request_id(NewId("gen-"));
  PinSampling(admitted.checked.request.sampling, request.mutable_options());
  const StreamId id{caller, request.request_id()};

  std::lock_guard beginning(begin_mu_);
  ASSIGN_OR_RETURN(const int64_t key, store_->Add(id, request, admitted.model->identity));
  auto stream = std::make_shared<ResumableStream>(frontend_->clock());
  Generate(std::move(admitted), id, stream);
  if (absl::Status refused = stream->interrupted(); !refused.ok()) {
    RETURN_IF_ERROR(store_->Remove(key));
    return refused;
  }
  std::lock_guard lock(mu_);
  active_[id] = {.key = key, .saved = 0, .stream = stream};
  return stream;
}

absl::StatusOr<std::shared_ptr<ResumableStream>> ResumableStreams::Resume(
    const std::string& request_id, const std::string& caller) {
  RETURN_IF_ERROR(Enabled());
  const StreamId id{caller, request_id};
  std::lock_guard beginning(begin_mu_);
  if (std::shared_ptr<ResumableStream> stream = Find(id)) return stream;
  ASSIGN_OR_RETURN(StoredStream stored, store_->Read(id));
  // Somebody cares for it.
  RETURN_IF_ERROR(store_->Append({StreamAddition{.key = stored.key}}));
  if (!stored.end.has_value()) return Revive(id, std::move(stored));
  auto stream = std::make_shared<ResumableStream>(frontend_->clock());
  stream->Restore(std::move(stored.events), *std::move(stored.end));
  return stream;
}

absl::StatusOr<std::shared_ptr<ResumableStream>> ResumableStreams::Revive(const StreamId& id,
                                                                          StoredStream stored) {
  ASSIGN_OR_RETURN(Frontend::Admitted admitted,
                   frontend_->Admit(stored.request, id.tenant, frontend_->clock()->Now()));
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
  Generate(std::move(admitted), id, stream);
  RETURN_IF_ERROR(stream->interrupted());
  std::lock_guard lock(mu_);
  active_[id] = {.key = stored.key,
                 .saved = static_cast<uint32_t>(stored.events.events_size()),
                 .stream = stream};
  return stream;
}

absl::Status ResumableStreams::Cancel(const std::string& request_id, const std::string& caller) {
  RETURN_IF_ERROR(Enabled());
  const StreamId id{caller, request_id};
  std::lock_guard beginning(begin_mu_);
  if (const std::shared_ptr<ResumableStream> stream = Find(id)) {
    stream->Cancel();
    return absl::OkStatus();
  }
  ASSIGN_OR_RETURN(const StoredStream stored, store_->Read(id));
  if (stored.end.has_value()) return absl::OkStatus();
  StreamAddition addition{.key = stored.key};
  addition.end.emplace().set_code(static_cast<int>(absl::StatusCode::kCancelled));
  addition.end->set_message("cancelled");
  return store_->Append({addition});
}

void ResumableStreams::Loop() {
  TimePoint sweep_at{};
  bool failing = false;
  while (true) {
    {
      std::unique_lock lock(mu_);
      wake_.wait_for(lock, options_.flush, [this] { return stopping_; });
      if (stopping_) return;
    }
    absl::Status status = Save();
    const TimePoint now = frontend_->clock()->Now();
    if (status.ok() && now >= sweep_at) {
      sweep_at = now + kSweepEvery;
      status = Sweep();
    }
    // Once, not each time: they go on without, and what is missing is tried again.
    if (!status.ok() && !failing) spdlog::error("resumable requests: {}", status.ToString());
    failing = !status.ok();
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

absl::Status ResumableStreams::Sweep() {
  std::set<int64_t> spared;
  std::vector<std::shared_ptr<ResumableStream>> unread;
  {
    std::lock_guard lock(mu_);
    for (const auto& [id, active] : active_) {
      spared.insert(active.key);
      if (active.stream->IdleFor(frontend_->clock()->Now()) > options_.window) {
        unread.push_back(active.stream);
      }
    }
  }
  for (const std::shared_ptr<ResumableStream>& stream : unread) stream->Cancel();
  return store_->Expire(options_.now_ms() - Milliseconds(options_.window), spared);
}

}  // namespace whalepod
