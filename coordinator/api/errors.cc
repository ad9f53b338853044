#include "coordinator/api/errors.h"

#include "absl/strings/cord.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace whalepod {
namespace {

constexpr char kDetailUrl[] = "type.googleapis.com/whalepod.v1.ErrorDetail";
// Trailers are limited to 8 KiB together; the details must fit beside the message.
constexpr size_t kMostMessage = 2000;

}  // namespace

absl::Status WithDetail(absl::Status status, const v1::ErrorDetail& detail) {
  status.SetPayload(kDetailUrl, absl::Cord(detail.SerializeAsString()));
  return status;
}

absl::Status BadField(const std::string& field, const std::string& reason, const std::string& value,
                      const std::string& limit) {
  v1::ErrorDetail detail;
  detail.set_field(field);
  detail.set_reason(reason);
  detail.set_value(absl::Utf8SafeCEscape(value.substr(0, 100)));
  detail.set_limit(limit);
  return WithDetail(
      absl::InvalidArgumentError(absl::StrCat(field, " is ", detail.value(), ", must be ", limit)),
      detail);
}

absl::Status WithField(absl::Status status, const std::string& field, const std::string& reason) {
  v1::ErrorDetail detail;
  detail.set_field(field);
  detail.set_reason(reason);
  return WithDetail(std::move(status), detail);
}

absl::Status WithRetryDelay(absl::Status status, const std::string& reason, uint32_t delay_ms) {
  v1::ErrorDetail detail;
  detail.set_reason(reason);
  detail.set_retry_delay_ms(delay_ms);
  return WithDetail(std::move(status), detail);
}

std::optional<v1::ErrorDetail> DetailOf(const absl::Status& status) {
  const absl::optional<absl::Cord> payload = status.GetPayload(kDetailUrl);
  v1::ErrorDetail detail;
  if (!payload || !detail.ParseFromString(std::string(*payload))) return std::nullopt;
  return detail;
}

grpc::Status ToGrpcStatus(const absl::Status& status) {
  if (status.ok()) return grpc::Status::OK;
  const std::string message(status.message().substr(0, kMostMessage));
  v1::RpcStatus rpc;
  rpc.set_code(static_cast<int>(status.code()));
  rpc.set_message(message);
  status.ForEachPayload([&rpc](absl::string_view url, const absl::Cord& payload) {
    google::protobuf::Any* any = rpc.add_details();
    any->set_type_url(std::string(url));
    any->set_value(std::string(payload));
  });
  return grpc::Status(static_cast<grpc::StatusCode>(status.code()), message,
                      rpc.details().empty() ? std::string() : rpc.SerializeAsString());
}

}  // namespace whalepod
