#include "coordinator/api/multipart.h"

#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "base/status.h"

namespace whalepod {
namespace {

constexpr size_t kMostParts = 64;

absl::Status Malformed(absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat("multipart/form-data: ", what));
}

// The value of `; key=value` or `; key="value"` in a header; false if there is none.
bool FindParameter(absl::string_view header, absl::string_view key, std::string* value) {
  size_t at = header.find(';');
  while (at != absl::string_view::npos) {
    absl::string_view rest = absl::StripLeadingAsciiWhitespace(header.substr(at + 1));
    const size_t equals = rest.find('=');
    if (equals == absl::string_view::npos) return false;
    const absl::string_view name = absl::StripAsciiWhitespace(rest.substr(0, equals));
    rest.remove_prefix(equals + 1);
    std::string found;
    size_t end = 0;
    if (absl::StartsWith(rest, "\"")) {
      for (end = 1; end < rest.size() && rest[end] != '"'; ++end) {
        if (rest[end] == '\\' && end + 1 < rest.size()) ++end;
        found.push_back(rest[end]);
      }
      if (end == rest.size()) return false;
    } else {
      end = std::min(rest.find(';'), rest.size());
      found = std::string(absl::StripAsciiWhitespace(rest.substr(0, end)));
    }
    if (absl::EqualsIgnoreCase(name, key)) {
      *value = std::move(found);
      return true;
    }
    at = rest.find(';', end);
    header = rest;
  }
  return false;
}

// What stands before "\r\n\r\n" of a part.
absl::Status ReadHeaders(absl::string_view headers, FormPart* part) {
  while (!headers.empty()) {
    const size_t end = std::min(headers.find("\r\n"), headers.size());
    const absl::string_view line = headers.substr(0, end);
    headers.remove_prefix(std::min(end + 2, headers.size()));
    const size_t colon = line.find(':');
    if (colon == absl::string_view::npos) return Malformed("a part's header has no colon");
    if (!absl::EqualsIgnoreCase(line.substr(0, colon), "content-disposition")) continue;
    const absl::string_view value = line.substr(colon + 1);
    FindParameter(value, "filename", &part->filename);
    if (FindParameter(value, "name", &part->name)) return absl::OkStatus();
  }
  return Malformed("a part has no name");
}

}  // namespace

absl::StatusOr<std::vector<FormPart>> ParseMultipart(absl::string_view content_type,
                                                     absl::string_view body) {
  std::string boundary;
  if (!absl::StartsWithIgnoreCase(content_type, "multipart/form-data")) {
    return Malformed(
        absl::StrCat("expected as Content-Type, found \"", content_type.substr(0, 100), "\""));
  }
  if (!FindParameter(content_type, "boundary", &boundary) || boundary.empty() ||
      boundary.size() > 70) {
    return Malformed("the Content-Type has no boundary of 1 to 70 characters");
  }
  const std::string delimiter = absl::StrCat("--", boundary);
  if (!absl::ConsumePrefix(&body, delimiter)) return Malformed("the body begins otherwise");
  std::vector<FormPart> parts;
  while (!absl::StartsWith(body, "--")) {
    if (!absl::ConsumePrefix(&body, "\r\n")) return Malformed("a boundary's line goes on");
    const size_t blank = body.find("\r\n\r\n");
    if (blank == absl::string_view::npos) return Malformed("a part's headers do not end");
    if (parts.size() == kMostParts)
      return Malformed(absl::StrCat("more than ", kMostParts, " parts"));
    FormPart& part = parts.emplace_back();
    RETURN_IF_ERROR(ReadHeaders(body.substr(0, blank), &part));
    body.remove_prefix(blank + 4);
    const size_t end = body.find(absl::StrCat("\r\n", delimiter));
    if (end == absl::string_view::npos) return Malformed("a part does not end");
    part.content = body.substr(0, end);
    body.remove_prefix(end + 2 + delimiter.size());
  }
  return parts;
}

}  // namespace whalepod
