#include "coordinator/streams/stream_store.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "base/status.h"
#include "coordinator/storage/store_file.h"

namespace whalepod {
namespace {

// `touched_ms`: when somebody last cared. `finish`: a JournalEnd, null until then.
constexpr char kSchema[] = R"(
CREATE TABLE streams(
  seq INTEGER PRIMARY KEY AUTOINCREMENT, tenant TEXT NOT NULL, id TEXT NOT NULL,
  model BLOB NOT NULL, request BLOB NOT NULL, finish BLOB, touched_ms INTEGER NOT NULL);
CREATE UNIQUE INDEX streams_id ON streams(tenant, id);
CREATE INDEX streams_touched ON streams(touched_ms);
CREATE TABLE events(
  stream INTEGER NOT NULL, first INTEGER NOT NULL, events BLOB NOT NULL,
  PRIMARY KEY(stream, first)) WITHOUT ROWID;
)";

constexpr StoreFormat kFormat = {
    .name = "stream store",
    .application = 0x5750'5354,  // "WPST"
    .version = 1,
    .schema = kSchema,
};

}  // namespace

absl::StatusOr<std::unique_ptr<StreamStore>> StreamStore::Open(const Options& options) {
  std::unique_ptr<StreamStore> store(new StreamStore(options));
  ASSIGN_OR_RETURN(store->database_, OpenStore(options.path, kFormat, options.most_pages));
  RETURN_IF_ERROR(
      store->database_->Prepare("UPDATE streams SET touched_ms=?").Bind(options.now_ms()).Run());
  return store;
}

absl::Status StreamStore::CheckRoom(const std::string& tenant) {
  if (options_.most_streams == 0) return absl::OkStatus();
  Database::Query query = database_->Prepare("SELECT COUNT(*) FROM streams WHERE tenant=?");
  RETURN_IF_ERROR(query.Bind(tenant).Next().status());
  if (query.Int(0) < options_.most_streams) return absl::OkStatus();
  return absl::OutOfRangeError(absl::StrCat(
      query.Int(0), " resumable requests are kept, at most ", options_.most_streams,
      " (--max-resumable): one is dropped some time after it was last read (--resume-window)"));
}

absl::StatusOr<int64_t> StreamStore::Add(const StreamId& id, const v1::GenerateRequest& request,
                                         const std::string& model) {
  std::lock_guard lock(mu_);
  {
    Database::Query query = database_->Prepare("SELECT seq FROM streams WHERE tenant=? AND id=?");
    ASSIGN_OR_RETURN(const bool found, query.Bind(id.tenant).Bind(id.id).Next());
    if (found) {
      return absl::AlreadyExistsError(absl::StrCat(
          "request id \"", id.id,
          "\" is that of an earlier resumable request: ", "resume it, or take another id"));
    }
  }
  RETURN_IF_ERROR(CheckRoom(id.tenant));
  Database::Query query = database_->Prepare(
      "INSERT INTO streams(tenant, id, model, request, touched_ms) VALUES(?, ?, ?, ?, ?)");
  query.Bind(id.tenant).Bind(id.id).BindBlob(model).BindBlob(request.SerializeAsString());
  RETURN_IF_ERROR(query.Bind(options_.now_ms()).Run());
  return database_->last_row();
}

absl::Status StreamStore::AppendOne(const StreamAddition& addition) {
  if (addition.events.events_size() > 0) {
    Database::Query query =
        database_->Prepare("INSERT INTO events(stream, first, events) VALUES(?, ?, ?)");
    query.Bind(addition.key).Bind(int64_t{addition.first});
    RETURN_IF_ERROR(query.BindBlob(addition.events.SerializeAsString()).Run());
  }
  if (addition.end.has_value()) {
    Database::Query query = database_->Prepare("UPDATE streams SET finish=? WHERE seq=?");
    RETURN_IF_ERROR(query.BindBlob(addition.end->SerializeAsString()).Bind(addition.key).Run());
  }
  Database::Query query = database_->Prepare("UPDATE streams SET touched_ms=? WHERE seq=?");
  return query.Bind(options_.now_ms()).Bind(addition.key).Run();
}

absl::Status StreamStore::Append(const std::vector<StreamAddition>& additions) {
  std::lock_guard lock(mu_);
  return database_->Transaction([&]() -> absl::Status {
    for (const StreamAddition& addition : additions) RETURN_IF_ERROR(AppendOne(addition));
    return absl::OkStatus();
  });
}

absl::StatusOr<StoredStream> StreamStore::Read(const StreamId& id) {
  std::lock_guard lock(mu_);
  StoredStream stream;
  const absl::Status touched =
      database_->Prepare("UPDATE streams SET touched_ms=? WHERE tenant=? AND id=?")
          .Bind(options_.now_ms())
          .Bind(id.tenant)
          .Bind(id.id)
          .Run();
  if (!touched.ok()) spdlog::warn("{}", touched.ToString());
  {
    Database::Query query = database_->Prepare(
        "SELECT seq, model, request, finish FROM streams WHERE tenant=? AND id=?");
    ASSIGN_OR_RETURN(const bool found, query.Bind(id.tenant).Bind(id.id).Next());
    if (!found) {
      return absl::NotFoundError(
          absl::StrCat("there is no resumable request \"", id.id.substr(0, 128), "\""));
    }
    stream.key = query.Int(0);
    stream.model = query.Bytes(1);
    stream.request.ParseFromString(query.Bytes(2));
    // An end is never empty: it has a code or what came last.
    const std::string end = query.Bytes(3);
    if (!end.empty()) stream.end.emplace().ParseFromString(end);
  }
  Database::Query query =
      database_->Prepare("SELECT first, events FROM events WHERE stream=? ORDER BY first");
  query.Bind(stream.key);
  while (true) {
    ASSIGN_OR_RETURN(const bool found, query.Next());
    if (!found) return stream;
    v1::JournalEvents some;
    if (!some.ParseFromString(query.Bytes(1)) || query.Int(0) != stream.events.events_size()) {
      return absl::DataLossError(absl::StrCat("stream store: request \"", id.id, "\": events from ",
                                              query.Int(0), " on, expected from ",
                                              stream.events.events_size(), " on"));
    }
    stream.events.MergeFrom(some);
  }
}

absl::Status StreamStore::RemoveOne(int64_t key) {
  RETURN_IF_ERROR(database_->Prepare("DELETE FROM events WHERE stream=?").Bind(key).Run());
  return database_->Prepare("DELETE FROM streams WHERE seq=?").Bind(key).Run();
}

absl::Status StreamStore::Remove(int64_t key) {
  std::lock_guard lock(mu_);
  return database_->Transaction([&] { return RemoveOne(key); });
}

absl::Status StreamStore::Expire(int64_t before_ms, const std::set<int64_t>& spared) {
  std::lock_guard lock(mu_);
  std::vector<int64_t> over;
  {
    Database::Query query = database_->Prepare("SELECT seq FROM streams WHERE touched_ms<?");
    query.Bind(before_ms);
    while (true) {
      ASSIGN_OR_RETURN(const bool found, query.Next());
      if (!found) break;
      if (!spared.contains(query.Int(0))) over.push_back(query.Int(0));
    }
  }
  if (over.empty()) return absl::OkStatus();
  return database_->Transaction([&]() -> absl::Status {
    for (const int64_t key : over) RETURN_IF_ERROR(RemoveOne(key));
    return absl::OkStatus();
  });
}

}  // namespace whalepod
