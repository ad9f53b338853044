#include "coordinator/checkpoint/safetensors.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/coordinator/checkpoint/test_checkpoint.h"

namespace whalepod {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

// Parses a header in front of `data_bytes` bytes.
absl::StatusOr<std::vector<SafetensorsEntry>> Parse(const std::string& json, int64_t data_bytes) {
  return ParseSafetensorsHeader(json, 8 + static_cast<int64_t>(json.size()) + data_bytes, "f");
}

std::string Prefix(uint64_t bytes) {
  std::string prefix(8, '\0');
  for (size_t i = 0; i < 8; ++i) prefix[i] = static_cast<char>(bytes >> (8 * i));
  return prefix;
}

TEST(SafetensorsTest, ReadsEntriesInAnyOrderWithPadding) {
  const std::string json = R"({"b":{"data_offsets":[8,14],"shape":[3],"dtype":"BF16"},)"
                           R"("__metadata__":{"format":"pt"},)"
                           R"("a":{"dtype":"F32","shape":[2,1],"data_offsets":[0,8]}})"
                           "    ";
  const auto entries = Parse(json, 14);
  ASSERT_TRUE(entries.ok()) << entries.status();
  ASSERT_EQ(entries->size(), 2u);
  const int64_t data = 8 + static_cast<int64_t>(json.size());
  EXPECT_EQ((*entries)[0].name, "b");
  EXPECT_EQ((*entries)[0].dtype, "BF16");
  EXPECT_THAT((*entries)[0].shape, ElementsAre(3));
  EXPECT_EQ((*entries)[0].begin, data + 8);
  EXPECT_EQ((*entries)[0].end, data + 14);
  EXPECT_THAT((*entries)[1].shape, ElementsAre(2, 1));
  EXPECT_EQ((*entries)[1].begin, data);
}

TEST(SafetensorsTest, ScalarsEmptyTensorsAndEmptyFilesAreAllowed) {
  EXPECT_TRUE(Parse("{}", 0).ok());
  EXPECT_TRUE(Parse(R"({"s":{"dtype":"I64","shape":[],"data_offsets":[0,8]}})", 8).ok());
  // Two empty ones between others, listed out of order.
  const auto entries = Parse(R"({"z":{"dtype":"U8","shape":[2],"data_offsets":[1,3]},)"
                             R"("e":{"dtype":"F64","shape":[0,7],"data_offsets":[1,1]},)"
                             R"("a":{"dtype":"BOOL","shape":[1],"data_offsets":[0,1]},)"
                             R"("f":{"dtype":"C64","shape":[9,0],"data_offsets":[3,3]}})",
                             3);
  EXPECT_TRUE(entries.ok()) << entries.status();
}

TEST(SafetensorsTest, EveryDtypeHasItsSize) {
  const std::pair<const char*, int> kBitsOfEight[] = {
      {"BOOL", 8},        {"U8", 8},         {"I8", 8},   {"F8_E4M3", 8}, {"F8_E5M2", 8},
      {"F8_E8M0", 8},     {"I16", 16},       {"U16", 16}, {"F16", 16},    {"BF16", 16},
      {"I32", 32},        {"U32", 32},       {"F32", 32}, {"I64", 64},    {"U64", 64},
      {"F64", 64},        {"C64", 64},       {"F4", 4},   {"F6_E2M3", 6}, {"F6_E3M2", 6},
      {"F8_E4M3FNUZ", 8}, {"F8_E5M2FNUZ", 8}};
  for (const auto& [dtype, bits] : kBitsOfEight) {
    const std::string json = std::string(R"({"t":{"dtype":")") + dtype +
                             R"(","shape":[8],"data_offsets":[0,)" + std::to_string(bits) + "]}}";
    EXPECT_TRUE(Parse(json, bits).ok()) << dtype;
    EXPECT_FALSE(Parse(json, bits + 1).ok()) << dtype;
  }
}

struct BadHeader {
  const char* json;
  int64_t data_bytes;
  const char* message;
};

class BadHeaderTest : public testing::TestWithParam<BadHeader> {};

TEST_P(BadHeaderTest, IsRefusedByName) {
  const auto entries = Parse(GetParam().json, GetParam().data_bytes);
  EXPECT_EQ(entries.status().code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(std::string(entries.status().message()), HasSubstr(GetParam().message));
  EXPECT_THAT(std::string(entries.status().message()), testing::StartsWith("f: "));
}

INSTANTIATE_TEST_SUITE_P(
    Form, BadHeaderTest,
    testing::Values(
        BadHeader{"", 0, "expected '{' as the first byte, found nothing"},
        BadHeader{" {}", 0, "expected '{' as the first byte, found \" \""},
        BadHeader{"[]", 0, "expected '{'"}, BadHeader{"{", 0, "not valid JSON at byte"},
        BadHeader{"{}x", 0, "not valid JSON at byte 3"}, BadHeader{"{}{}", 0, "not valid JSON"},
        BadHeader{"{\"a\xff\":1}", 0, "not valid JSON"},
        BadHeader{R"({"a":1e999})", 0, "not valid JSON"},
        BadHeader{R"({"a":1})", 0, R"(tensor "a": unexpected number 1)"},
        BadHeader{R"({"a":-1})", 0, R"(tensor "a": unexpected negative number -1)"},
        BadHeader{R"({"a":1.5})", 0, R"(tensor "a": unexpected number 1.5)"},
        BadHeader{R"({"a":null})", 0, R"(tensor "a": unexpected null)"},
        BadHeader{R"({"a":true})", 0, R"(tensor "a": unexpected boolean)"},
        BadHeader{R"({"a":"x"})", 0, R"(tensor "a": unexpected string "x")"},
        BadHeader{R"({"a":[]})", 0, R"(tensor "a": an array where none is allowed)"},
        BadHeader{R"({"a":{"b":{}}})", 0, R"(tensor "a": unknown field "b")"},
        BadHeader{R"({"a":{"shape":{}}})", 0, R"(tensor "a": an object)"},
        BadHeader{R"({"a":{"dtype":[]}})", 0, R"(tensor "a": an array)"},
        BadHeader{R"({"a":{"shape":"x"}})", 0, R"(tensor "a": unexpected string)"},
        BadHeader{R"({"a":{"shape":[[]]}})", 0, R"(tensor "a": an array)"},
        BadHeader{R"({"a":{"dtype":3}})", 0, R"(tensor "a": unexpected number 3)"},
        BadHeader{R"({"__metadata__":{"a":1}})", 0, "__metadata__: unexpected number 1"},
        BadHeader{R"({"__metadata__":{"a":{}}})", 0, "__metadata__: an object"},
        BadHeader{R"({"__metadata__":"a"})", 0, "__metadata__: unexpected string"},
        BadHeader{R"({"__metadata__":{"a":"1","a":"2"}})", 0, R"(__metadata__: "a" twice)"},
        BadHeader{R"({"__metadata__":{},"__metadata__":{}})", 0, "__metadata__ twice"}));

INSTANTIATE_TEST_SUITE_P(
    Entries, BadHeaderTest,
    testing::Values(
        BadHeader{R"({"a":{"shape":[1],"data_offsets":[0,4]}})", 4, R"("a": no dtype)"},
        BadHeader{R"({"a":{"dtype":"F32","data_offsets":[0,4]}})", 4, R"("a": no shape)"},
        BadHeader{R"({"a":{"dtype":"F32","shape":[1]}})", 4, R"("a": no data_offsets)"},
        BadHeader{R"({"a":{"dtype":"F32","dtype":"F32"}})", 4, R"("a": dtype twice)"},
        BadHeader{R"({"a":{"shape":[1],"shape":[1]}})", 4, R"("a": shape twice)"},
        BadHeader{R"({"a":{"dtype":"F33","shape":[1],"data_offsets":[0,4]}})", 4,
                  R"(unknown dtype "F33")"},
        BadHeader{R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0]}})", 4,
                  "expected 2 numbers, found 1"},
        BadHeader{R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4,8]}})", 4,
                  "expected 2 numbers, found more"},
        BadHeader{R"({"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}})", 4,
                  "unexpected negative number -1"},
        BadHeader{R"({"a":{"dtype":"F32","shape":[18446744073709551615],"data_offsets":[0,4]}})", 4,
                  "is too large"},
        BadHeader{
            R"({"a":{"dtype":"F32","shape":[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1],"data_offsets":[0,4]}})",
            4, "more than 16 dimensions"},
        BadHeader{R"({"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,4]}})",
                  4, "F32 [4294967296, 4294967296] overflows 64 bits"},
        BadHeader{R"({"a":{"dtype":"F32","shape":[4611686018427387904,4,0],"data_offsets":[0,0]}})",
                  0, "overflows 64 bits"},
        BadHeader{R"({"a":{"dtype":"F4","shape":[3],"data_offsets":[0,2]}})", 2,
                  "F4 [3] is not a whole number of bytes"},
        BadHeader{R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[4,0]}})", 4,
                  "data_offsets [4, 0] end before they begin"},
        BadHeader{R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})", 4,
                  "end outside the file, which holds 4 bytes of tensors"},
        BadHeader{R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}})", 4,
                  "data_offsets [0, 4] hold 4 bytes, expected 8 for F32 [2]"}));

INSTANTIATE_TEST_SUITE_P(
    Together, BadHeaderTest,
    testing::Values(BadHeader{R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},)"
                              R"("a":{"dtype":"U8","shape":[2],"data_offsets":[2,4]}})",
                              4, R"(tensor "a": listed twice)"},
                    BadHeader{
                        R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},)"
                        R"("b":{"dtype":"U8","shape":[2],"data_offsets":[1,3]}})",
                        3, R"(tensor "b": begins at 1, expected 2 where "a" ends (they overlap))"},
                    BadHeader{R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},)"
                              R"("b":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}})",
                              2, "they overlap"},
                    BadHeader{R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},)"
                              R"("b":{"dtype":"U8","shape":[2],"data_offsets":[3,5]}})",
                              5, R"(tensor "b": begins at 3, expected 2 where "a" ends (a hole))"},
                    BadHeader{R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[1,3]}})", 3,
                              R"(tensor "a": begins at 1, expected 0 as the first (a hole))"},
                    BadHeader{R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}})", 3,
                              "tensors end at 2 of the data, expected 3"},
                    BadHeader{"{}", 1, "tensors end at 0 of the data, expected 1"}));

TEST(SafetensorsTest, ZeroBytesAreNotAnEnd) {
  // A lexer that stops at the first zero byte would take each of these for "{}".
  for (const std::string& json : {std::string("{}\0", 3), std::string("{}\0x", 4)}) {
    const auto entries = Parse(json, 0);
    EXPECT_THAT(std::string(entries.status().message()), HasSubstr("a zero byte at byte 2"));
  }
}

TEST(SafetensorsTest, LongNamesAreCutInMessages) {
  const std::string name(5000, 'x');
  const auto entries = Parse("{\"" + name + "\":1}", 0);
  EXPECT_LT(entries.status().message().size(), 400u);
  EXPECT_THAT(std::string(entries.status().message()), HasSubstr("xxx...\""));
}

TEST(SafetensorsTest, HeaderLengthIsBounded) {
  EXPECT_EQ(*SafetensorsHeaderBytes(Prefix(10), 18, "f"), 10);
  const auto message = [](const std::string& prefix, int64_t file_bytes) {
    const auto bytes = SafetensorsHeaderBytes(prefix, file_bytes, "f");
    EXPECT_EQ(bytes.status().code(), absl::StatusCode::kDataLoss);
    return std::string(bytes.status().message());
  };
  EXPECT_EQ(message("abc", 3), "f: expected at least 8 bytes, found 3");
  EXPECT_EQ(message("", 0), "f: expected at least 8 bytes, found 0");
  EXPECT_EQ(message(Prefix(11), 18), "f: header of 11 bytes, expected at most 10 in a file of 18");
  EXPECT_EQ(message(Prefix(100'000'001), int64_t{1} << 40),
            "f: header of 100000001 bytes, expected at most 100000000");
  EXPECT_EQ(message(Prefix(~uint64_t{0}), int64_t{1} << 40),
            "f: header of 18446744073709551615 bytes, expected at most 100000000");
}

TEST(SafetensorsTest, WeightTypes) {
  for (const v1::DType dtype : {v1::DTYPE_F32, v1::DTYPE_BF16, v1::DTYPE_F16, v1::DTYPE_F8_E4M3}) {
    EXPECT_EQ(WeightDType(SafetensorsName(dtype)), dtype);
  }
  EXPECT_EQ(WeightDType("I64"), v1::DTYPE_UNSPECIFIED);
  EXPECT_EQ(SafetensorsName(v1::DTYPE_UNSPECIFIED), "?");
}

}  // namespace
}  // namespace whalepod
