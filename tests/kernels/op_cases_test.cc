// Every op case on every CPU path; tests/cuda_emu runs the same cases on emulated CUDA.
#include <gtest/gtest.h>

#include <cstring>

#include "kernels/cpu/cpu_backend.h"
#include "tests/kernels/cases/all_cases.h"

namespace whalepod {
namespace {

class CpuDevice : public OpDevice {
 public:
  CpuDevice(std::unique_ptr<Backend> backend) : backend_(std::move(backend)) {}
  std::string Name() const override { return backend_->InstructionPath(); }
  void* Upload(const void* host, int64_t bytes) override {
    buffers_.emplace_back(bytes);
    if (host != nullptr) std::memcpy(buffers_.back().data(), host, bytes);
    return buffers_.back().data();
  }
  void Download(void* host, const void* device, int64_t bytes) override {
    std::memcpy(host, device, bytes);
  }
  absl::Status RmsNorm(const RmsNormArgs& args) override { return backend_->RmsNorm(args); }
  absl::Status MatMul(const MatMulArgs& args) override { return backend_->MatMul(args); }

 private:
  std::unique_ptr<Backend> backend_;
  std::vector<std::vector<std::byte>> buffers_;
};

TEST(OpCases, HoldOnEveryInstructionPath) {
  for (IsaPath isa : {IsaPath::kPortable, IsaPath::kAvx2, IsaPath::kAvx512}) {
    absl::StatusOr<std::unique_ptr<Backend>> backend = CreateCpuBackend({.threads = 2, .isa = isa});
    if (!backend.ok()) {
      ASSERT_NE(isa, IsaPath::kPortable) << backend.status();
      GTEST_LOG_(INFO) << "skipped: " << backend.status();
      continue;
    }
    CpuDevice device(*std::move(backend));
    for (const auto& op : AllOpCases()) ExpectCaseHolds(*op, device);
  }
}

}  // namespace
}  // namespace whalepod
