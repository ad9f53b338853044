#include "coordinator/checkpoint/index.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

namespace whalepod {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

TEST(IndexTest, ReadsTheWeightMapAndSortsFiles) {
  const auto index = ParseCheckpointIndex(
      R"({"metadata":{"total_size":3,"more":[1,-2,1.5,true,null,{"weight_map":"no"}]},
          "other":[["x"]],
          "weight_map":{"a":"z.safetensors","b":"m.safetensors","c":"z.safetensors"}})",
      "i");
  ASSERT_TRUE(index.ok()) << index.status();
  EXPECT_THAT(index->files, ElementsAre("m.safetensors", "z.safetensors"));
  EXPECT_EQ(index->tensors.size(), 3u);
  EXPECT_EQ(index->tensors.at("a"), 1u);
  EXPECT_EQ(index->tensors.at("b"), 0u);
  EXPECT_EQ(index->tensors.at("c"), 1u);
}

struct BadIndex {
  const char* json;
  const char* message;
};

class BadIndexTest : public testing::TestWithParam<BadIndex> {};

TEST_P(BadIndexTest, IsRefused) {
  const auto index = ParseCheckpointIndex(GetParam().json, "i");
  EXPECT_EQ(index.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(index.status().message()), HasSubstr(GetParam().message));
  EXPECT_THAT(std::string(index.status().message()), testing::StartsWith("i: "));
}

constexpr char kNameOfFile[] = "expected the name of a .safetensors file in the same folder";

INSTANTIATE_TEST_SUITE_P(
    All, BadIndexTest,
    testing::Values(BadIndex{"", "not valid JSON"}, BadIndex{"{", "not valid JSON"},
                    BadIndex{"\xef\xbb\xbf{}", "not valid JSON at byte 1"},
                    BadIndex{"{}", "no weight_map"}, BadIndex{"3", "a number, expected an object"},
                    BadIndex{"-3", "a number, expected an object"},
                    BadIndex{"\"x\"", "a string, expected an object"},
                    BadIndex{"[]", "an array, expected an object"},
                    BadIndex{"null", "null, expected an object"},
                    BadIndex{"true", "a boolean, expected an object"},
                    BadIndex{R"({"weight_map":{}})", "weight_map is empty"},
                    BadIndex{R"({"weight_map":3})", "weight_map: a number, expected an object"},
                    BadIndex{R"({"weight_map":"x"})", "weight_map: a string, expected an object"},
                    BadIndex{R"({"weight_map":["x"]})", "weight_map: an array, expected an object"},
                    BadIndex{R"({"weight_map":{"a":1}})", R"(tensor "a": a number)"},
                    BadIndex{R"({"weight_map":{"a":1.5}})", R"(tensor "a": a number)"},
                    BadIndex{R"({"weight_map":{"a":null}})", R"(tensor "a": null)"},
                    BadIndex{R"({"weight_map":{"a":[]}})", R"(tensor "a": an array)"},
                    BadIndex{R"({"weight_map":{"a":{}}})", R"(tensor "a": an object)"},
                    BadIndex{R"({"weight_map":{"a":"x.safetensors","a":"x.safetensors"}})",
                             R"(tensor "a" twice)"},
                    BadIndex{R"({"weight_map":{"a":"x.safetensors"},"weight_map":{}})",
                             "weight_map twice"},
                    BadIndex{R"({"weight_map":{"a":""}})", kNameOfFile},
                    BadIndex{R"({"weight_map":{"a":"../x.safetensors"}})", kNameOfFile},
                    BadIndex{R"({"weight_map":{"a":"/x.safetensors"}})", kNameOfFile},
                    BadIndex{R"({"weight_map":{"a":"d/x.safetensors"}})", kNameOfFile},
                    BadIndex{R"({"weight_map":{"a":".safetensors"}})", kNameOfFile},
                    BadIndex{R"({"weight_map":{"a":"x.bin"}})", kNameOfFile},
                    BadIndex{"{\"weight_map\":{\"a\":\"x\\u0000.safetensors\"}}", kNameOfFile}));

TEST(IndexTest, DeepNestingIsRefused) {
  for (const auto& [open, close] : {std::pair("[", "]"), std::pair("{\"x\":", "}")}) {
    std::string json = "{\"metadata\":";
    for (int i = 0; i < 100'000; ++i) json += open;
    json += "1";
    for (int i = 0; i < 100'000; ++i) json += close;
    const auto index = ParseCheckpointIndex(json + "}", "i");
    EXPECT_THAT(std::string(index.status().message()), HasSubstr("nested deeper than 32"));
  }
}

}  // namespace
}  // namespace whalepod
