#include "base/units.h"

#include <gtest/gtest.h>

namespace whalepod {
namespace {

TEST(Units, BytesArePrintedInBinaryUnits) {
  EXPECT_EQ(FormatBytes(512), "512 B");
  EXPECT_EQ(FormatBytes(1536), "1.50 KiB");
  EXPECT_EQ(FormatBytes(673150611808), "626.92 GiB");
}

TEST(Units, CountsAreExactWithSeparators) {
  EXPECT_EQ(FormatCount(0), "0");
  EXPECT_EQ(FormatCount(999), "999");
  EXPECT_EQ(FormatCount(671026419200), "671,026,419,200");
  EXPECT_EQ(FormatCount(-1000), "-1,000");
}

TEST(Units, RoundUpReachesTheNextMultiple) {
  EXPECT_EQ(RoundUp(576, 128), 640);
  EXPECT_EQ(RoundUp(640, 128), 640);
  EXPECT_EQ(CeilDiv(0, 7), 0);
}

}  // namespace
}  // namespace whalepod
