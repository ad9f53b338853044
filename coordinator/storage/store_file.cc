#include "coordinator/storage/store_file.h"

#include "absl/strings/str_cat.h"
#include "base/status.h"

namespace whalepod {
namespace {

absl::StatusOr<int64_t> ReadInt(Database& database, const char* sql) {
  Database::Query query = database.Prepare(sql);
  ASSIGN_OR_RETURN(const bool found, query.Next());
  return found ? query.Int(0) : 0;
}

absl::Status SetPragma(Database& database, const char* name, int64_t value) {
  return database.Execute(absl::StrCat("PRAGMA ", name, "=", value).c_str());
}

class Opening {
 public:
  Opening(const std::string& path, const StoreFormat& format, Database* database)
      : where_(absl::StrCat(format.name, " ", path)), format_(format), database_(*database) {}

  absl::Status Run(int64_t most_pages) {
    // One process at a time. Held until the process ends.
    RETURN_IF_ERROR(database_.Execute("PRAGMA locking_mode=EXCLUSIVE"));
    RETURN_IF_ERROR(CheckKind());
    RETURN_IF_ERROR(KeepWal());
    RETURN_IF_ERROR(SetPragma(database_, "journal_size_limit", 67108864));
    if (most_pages > 0) RETURN_IF_ERROR(SetPragma(database_, "max_page_count", most_pages));
    ASSIGN_OR_RETURN(const int64_t version, ReadInt(database_, "PRAGMA user_version"));
    return version == 0 ? MakeSchema() : CheckContent();
  }

 private:
  absl::Status CheckKind() {
    ASSIGN_OR_RETURN(const int64_t version, ReadInt(database_, "PRAGMA user_version"));
    ASSIGN_OR_RETURN(const int64_t application, ReadInt(database_, "PRAGMA application_id"));
    ASSIGN_OR_RETURN(const int64_t tables,
                     ReadInt(database_, "SELECT count(*) FROM sqlite_schema"));
    if (tables == 0 && version == 0 && application == 0) return absl::OkStatus();
    if (application != format_.application) {
      return absl::FailedPreconditionError(
          absl::StrCat(where_, ": this is a database of another program"));
    }
    if (version != format_.version) {
      return absl::FailedPreconditionError(absl::StrCat(
          where_, ": expected version ", format_.version, " of the schema, found ", version));
    }
    return absl::OkStatus();
  }

  absl::Status KeepWal() {
    Database::Query query = database_.Prepare("PRAGMA journal_mode=WAL");
    RETURN_IF_ERROR(query.Next().status());
    if (query.Bytes(0) != "wal") {
      return absl::FailedPreconditionError(
          absl::StrCat(where_, ": expected a file system that can keep a WAL, ",
                       "SQLite found journal mode ", query.Bytes(0)));
    }
    return database_.Execute("PRAGMA synchronous=FULL");
  }

  absl::Status MakeSchema() {
    return database_.Transaction([this]() -> absl::Status {
      RETURN_IF_ERROR(database_.Execute(format_.schema));
      RETURN_IF_ERROR(SetPragma(database_, "application_id", format_.application));
      return SetPragma(database_, "user_version", format_.version);
    });
  }

  absl::Status CheckContent() {
    Database::Query query = database_.Prepare("PRAGMA quick_check(1)");
    ASSIGN_OR_RETURN(const bool found, query.Next());
    const std::string said = found ? query.Bytes(0) : "nothing";
    if (said == "ok") return absl::OkStatus();
    return absl::DataLossError(absl::StrCat(where_, ": the file is corrupt: ", said));
  }

  const std::string where_;
  const StoreFormat& format_;
  Database& database_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Database>> OpenStore(const std::string& path,
                                                    const StoreFormat& format, int64_t most_pages) {
  ASSIGN_OR_RETURN(std::unique_ptr<Database> database, Database::Open(format.name, path));
  RETURN_IF_ERROR(Opening(path, format, database.get()).Run(most_pages));
  return database;
}

}  // namespace whalepod
