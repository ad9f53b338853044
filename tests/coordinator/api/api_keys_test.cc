#include "coordinator/api/api_keys.h"

#include "coordinator/api/errors.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace whalepod {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

TEST(ApiKeys, WithoutKeysEverybodyMayAsk) {
  EXPECT_EQ(ApiKeys().NameOf("").value(), "");
  EXPECT_EQ(ApiKeys().NameOf("Bearer anything").value(), "");
}

TEST(ApiKeys, NamesTheCaller) {
  const ApiKeys keys = ApiKeys::Parse({"alice:sk-1", "sk-2"}).value();
  EXPECT_EQ(keys.NameOf("Bearer sk-1").value(), "alice");
  EXPECT_EQ(keys.NameOf("bearer  sk-2 ").value(), "key-2");
}

TEST(ApiKeys, RefusesAllElse) {
  const ApiKeys keys = ApiKeys::Parse({"alice:sk-1"}).value();
  for (const char* wrong : {"", "sk-1", "Bearer", "Bearer ", "Bearer sk-", "Bearer sk-12",
                            "Basic sk-1", "Bearer alice:sk-1", "Bearer alice"}) {
    const absl::Status status = keys.NameOf(wrong).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kUnauthenticated) << wrong;
    EXPECT_EQ(DetailOf(status)->reason(), "INVALID_API_KEY");
    EXPECT_THAT(std::string(status.message()), Not(HasSubstr("sk-1")));
  }
}

TEST(ApiKeys, BadEntriesAreNamedByPlaceAndNotShown) {
  const auto error = [](const std::vector<std::string>& entries) {
    const absl::Status status = ApiKeys::Parse(entries).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(status.message()), Not(HasSubstr("secret")));
    return std::string(status.message());
  };
  EXPECT_THAT(error({"a", ""}), HasSubstr("entry 2 is empty"));
  EXPECT_THAT(error({":secret"}), HasSubstr("entry 1 is empty"));
  EXPECT_THAT(error({"name:"}), HasSubstr("entry 1 is empty"));
  EXPECT_THAT(error({"my secret"}), HasSubstr("other than visible ASCII"));
  EXPECT_THAT(error({"x:secret", "y:secret"}), HasSubstr("entry 2 is the key of another"));
  EXPECT_THAT(error({"x:1", "x:2"}), HasSubstr("entry 2 has the name of another: x"));
}

TEST(ApiKeys, OneMaySeeTheUsageOfAll) {
  EXPECT_TRUE(ApiKeys().SeesAllUsage(""));
  EXPECT_FALSE(ApiKeys::Parse({"alice:sk-1"})->SeesAllUsage("alice"));
  const auto keys = ApiKeys::Parse({"alice:sk-1", "sk-2"}, "key-2");
  ASSERT_TRUE(keys.ok()) << keys.status();
  EXPECT_TRUE(keys->SeesAllUsage("key-2"));
  EXPECT_FALSE(keys->SeesAllUsage("alice"));
  for (const std::vector<std::string>& entries :
       {std::vector<std::string>{"alice:sk-1"}, std::vector<std::string>{}}) {
    const absl::Status status = ApiKeys::Parse(entries, "bob").status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(status.message()), HasSubstr("--usage-admin"));
  }
}

}  // namespace
}  // namespace whalepod
