#include "coordinator/text/normalizer.h"

#include <gtest/gtest.h>

namespace whalepod {
namespace {

TEST(NormalizerTest, ComposesAndReorders) {
  EXPECT_EQ(Nfc("plain"), "plain");
  EXPECT_EQ(Nfc("e\u0301"), "\u00e9");
  EXPECT_EQ(Nfc("a\u0301\u0316"), "\u00e1\u0316");
  EXPECT_EQ(Nfc("\u212b"), "\u00c5");
  EXPECT_EQ(Nfc("\u1112\u1161\u11ab"), "\ud55c");
  EXPECT_EQ(Nfc(std::string("e\u0301\0x", 5)), std::string("\u00e9\0x", 4));
}

TEST(NormalizerTest, MarksLaterThanUnicode9Stay) {
  // U+1DF9 has a lower class than U+0653 in Unicode 14.
  EXPECT_EQ(Nfc("a\u1df7\u0653"), "a\u1df7\u0653");
  EXPECT_EQ(Nfc("e\u0301\u1df7\u0316\u0301"), "\u00e9\u1df7\u0316\u0301");
}

TEST(NormalizerTest, LongRunsAreSortedInTime) {
  // Descending classes, on which a bubble sort takes minutes.
  const int count = 200000;
  std::string text = "a";
  std::string below;
  std::string above;
  for (int i = 0; i < count; ++i) {
    text += "\u0308\u0316";
    below += "\u0316";
    if (i > 0) above += "\u0308";
  }
  EXPECT_EQ(Nfc(text), "\u00e4" + below + above);
  // A starter that decomposes to two marks.
  std::string tibetan = "\u0f40";
  for (int i = 0; i < count; ++i) tibetan += "\u0f73";
  const std::string normal = Nfc(tibetan);
  EXPECT_EQ(normal.substr(0, 9), "\u0f40\u0f71\u0f71");
  EXPECT_EQ(normal.size(), 3u + 6u * count);
}

}  // namespace
}  // namespace whalepod
