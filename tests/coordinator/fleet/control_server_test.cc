#include "coordinator/fleet/control_server.h"

#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/grpcpp.h>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "whalepod/v1/control.grpc.pb.h"

namespace whalepod {
namespace {

// Such a stream never reaches a fleet.
TEST(ControlServerTest, AStreamWithoutHelloIsEnded) {
  auto server =
      ControlServer::Start("127.0.0.1", 0, /*fleet=*/nullptr, std::chrono::milliseconds(20));
  ASSERT_TRUE(server.ok()) << server.status();
  const auto stub = v1::ControlService::NewStub(grpc::CreateChannel(
      absl::StrCat("127.0.0.1:", (*server)->port()), grpc::InsecureChannelCredentials()));
  grpc::ClientContext context;
  const auto stream = stub->Attach(&context);
  v1::AttachResponse response;
  EXPECT_FALSE(stream->Read(&response));
  EXPECT_EQ(stream->Finish().error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
}

TEST(ControlServerTest, AStreamThatLeavesBeforeHelloIsForgotten) {
  auto server = ControlServer::Start("127.0.0.1", 0, /*fleet=*/nullptr, std::chrono::hours(1));
  ASSERT_TRUE(server.ok()) << server.status();
  const auto stub = v1::ControlService::NewStub(grpc::CreateChannel(
      absl::StrCat("127.0.0.1:", (*server)->port()), grpc::InsecureChannelCredentials()));
  grpc::ClientContext context;
  const auto stream = stub->Attach(&context);
  context.TryCancel();
  EXPECT_EQ(stream->Finish().error_code(), grpc::StatusCode::CANCELLED);
  server->reset();  // would wait for a stream that is still there
}

TEST(ControlServerTest, TheFirstMessageMustBeHello) {
  auto server = ControlServer::Start("127.0.0.1", 0, /*fleet=*/nullptr);
  ASSERT_TRUE(server.ok()) << server.status();
  const auto stub = v1::ControlService::NewStub(grpc::CreateChannel(
      absl::StrCat("127.0.0.1:", (*server)->port()), grpc::InsecureChannelCredentials()));
  grpc::ClientContext context;
  const auto stream = stub->Attach(&context);
  v1::AttachRequest request;
  request.mutable_heartbeat();
  ASSERT_TRUE(stream->Write(request));
  v1::AttachResponse response;
  EXPECT_FALSE(stream->Read(&response));
  EXPECT_EQ(stream->Finish().error_code(), grpc::StatusCode::INVALID_ARGUMENT);
}

TEST(ControlServerTest, BytesThatAreNoMessageEndTheStream) {
  auto server = ControlServer::Start("127.0.0.1", 0, /*fleet=*/nullptr);
  ASSERT_TRUE(server.ok()) << server.status();
  grpc::GenericStub stub(grpc::CreateChannel(absl::StrCat("127.0.0.1:", (*server)->port()),
                                             grpc::InsecureChannelCredentials()));
  grpc::ClientContext context;
  grpc::CompletionQueue queue;
  const auto call = stub.PrepareCall(&context, "/whalepod.v1.ControlService/Attach", &queue);
  void* tag = nullptr;
  bool ok = false;
  call->StartCall(nullptr);
  ASSERT_TRUE(queue.Next(&tag, &ok) && ok);
  const grpc::Slice slice("\x0a\xff\xff\xff");  // a field that is longer than the message
  call->Write(grpc::ByteBuffer(&slice, 1), nullptr);
  ASSERT_TRUE(queue.Next(&tag, &ok) && ok);
  grpc::Status status;
  call->Finish(&status, nullptr);
  ASSERT_TRUE(queue.Next(&tag, &ok) && ok);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT) << status.error_message();
}

}  // namespace
}  // namespace whalepod
