#include "coordinator/fleet/epoch_store.h"

#include <filesystem>
#include <fstream>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace whalepod {
namespace {

using ::testing::HasSubstr;

class EpochStoreTest : public ::testing::Test {
 protected:
  EpochStoreTest() : dir_(::testing::TempDir() + "/whalepod_epochs_" + std::to_string(::getpid())) {
    std::filesystem::remove_all(dir_);
  }
  ~EpochStoreTest() override { std::filesystem::remove_all(dir_); }
  const std::string dir_;
};

TEST_F(EpochStoreTest, GrowsOverRestarts) {
  for (uint64_t start : {1, 3, 5}) {
    auto store = EpochStore::Open(dir_ + "/a/b");
    ASSERT_TRUE(store.ok()) << store.status();
    EXPECT_EQ((*store)->Next().value(), start);
    EXPECT_EQ((*store)->Next().value(), start + 1);
  }
}

TEST_F(EpochStoreTest, OneCoordinatorAtATime) {
  auto store = EpochStore::Open(dir_);
  ASSERT_TRUE(store.ok());
  auto second = EpochStore::Open(dir_);
  EXPECT_EQ(second.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(second.status().message(), HasSubstr("in use by another coordinator"));
  store->reset();
  EXPECT_TRUE(EpochStore::Open(dir_).ok());
}

TEST_F(EpochStoreTest, ADamagedFileIsRefused) {
  std::filesystem::create_directories(dir_);
  std::ofstream(dir_ + "/epoch") << "12x\n";
  auto store = EpochStore::Open(dir_);
  EXPECT_EQ(store.status().code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(store.status().message(), HasSubstr("found \"12x\""));
}

TEST_F(EpochStoreTest, WithoutAFolder) { EXPECT_EQ((*EpochStore::Open(""))->Next().value(), 1u); }

}  // namespace
}  // namespace whalepod
