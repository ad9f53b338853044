#include "kernels/cpu/cpu_backend.h"

#include <gtest/gtest.h>

#include <cstdlib>

namespace whalepod {
namespace {

class CpuBackendTest : public testing::Test {
 protected:
  void TearDown() override { unsetenv("WHALEPOD_ISA"); }
};

TEST_F(CpuBackendTest, TheEnvironmentChoosesThePathWhenTheOptionsDoNot) {
  setenv("WHALEPOD_ISA", "portable", 1);
  EXPECT_EQ((*CreateCpuBackend({}))->InstructionPath(), "portable");
  setenv("WHALEPOD_ISA", "", 1);
  EXPECT_TRUE(CreateCpuBackend({}).ok());
  setenv("WHALEPOD_ISA", "avx1024", 1);
  const auto refused = CreateCpuBackend({});
  EXPECT_EQ(refused.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_NE(refused.status().message().find("avx1024"), std::string::npos);
  const auto asked = CreateCpuBackend({.isa = IsaPath::kPortable});
  ASSERT_TRUE(asked.ok());
  EXPECT_EQ((*asked)->InstructionPath(), "portable");
}

TEST_F(CpuBackendTest, HasAsManyThreadsAsAsked) {
  EXPECT_EQ((*CreateCpuBackend({.threads = 3}))->Threads(), 3);
  EXPECT_EQ(CreateCpuBackend({.threads = 0}).status().code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace whalepod
