// SQLite with absl::Status for errors, and statements that clean up after themselves.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "sqlite3.h"

namespace whalepod {

// One connection, for one thread at a time.
class Database {
 public:
  // Opens or makes the file; `name` says what it is. Errors of this and of all statements give
  // both. DATA_LOSS: it is corrupt, or no SQLite database; RESOURCE_EXHAUSTED: the disk is full;
  // FAILED_PRECONDITION: it can only be read, or another process holds it; NOT_FOUND: it can be
  // neither opened nor made; UNAVAILABLE: the disk fails.
  static absl::StatusOr<std::unique_ptr<Database>> Open(const std::string& name,
                                                        const std::string& path);
  ~Database();

  // A statement that is being run. Parameters are numbered from 1, columns from 0.
  class Query {
   public:
    ~Query();
    Query(const Query&) = delete;
    Query& operator=(const Query&) = delete;

    Query& Bind(int64_t value);
    Query& Bind(const std::string& text);
    Query& BindReal(double value);
    Query& BindBlob(absl::string_view bytes);

    // The next row; false: there is none.
    absl::StatusOr<bool> Next();
    // For statements without rows.
    absl::Status Run();

    int64_t Int(int column) const { return sqlite3_column_int64(statement_, column); }
    double Real(int column) const { return sqlite3_column_double(statement_, column); }
    std::string Bytes(int column) const;

   private:
    friend class Database;
    Query(Database* database, sqlite3_stmt* statement, int error)
        : database_(database), statement_(statement), error_(error) {}
    void Note(int error);

    Database* const database_;
    sqlite3_stmt* const statement_;  // the database's; null where it could not be prepared
    int error_;
    int bound_ = 0;
  };

  // `sql`: one statement, a literal that lives for ever; kept prepared. One Query of it at a time.
  Query Prepare(const char* sql);
  // One or more statements without rows.
  absl::Status Execute(const char* sql);
  // `work` in one transaction: on disk when this is OK, and not there at all otherwise.
  absl::Status Transaction(const std::function<absl::Status()>& work);
  int64_t changes() const { return sqlite3_changes64(handle_); }
  int64_t last_row() const { return sqlite3_last_insert_rowid(handle_); }

 private:
  explicit Database(std::string where) : where_(std::move(where)) {}
  absl::Status ToStatus(int error) const;

  const std::string where_;
  sqlite3* handle_ = nullptr;
  std::map<const char*, sqlite3_stmt*> statements_;
};

}  // namespace whalepod
