#include "coordinator/cli/grading.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace whalepod {
namespace {

TEST(Grading, TheLastBoxCounts) {
  EXPECT_EQ(BoxedAnswer("so \\boxed{1}, no, \\boxed{12}."), "12");
  EXPECT_EQ(BoxedAnswer("\\boxed{\\frac{1}{2}} it is"), "\\frac{1}{2}");
  EXPECT_EQ(BoxedAnswer("\\boxed{}"), "");
  EXPECT_EQ(BoxedAnswer("12"), std::nullopt);
  EXPECT_EQ(BoxedAnswer("\\boxed{12"), std::nullopt);
}

TEST(Grading, NumbersAreEqualHoweverTheyAreWritten) {
  for (const char* same :
       {"1240.5", "1,240.5", " +1240.50 ", "$1,240.500$", "01240.5", "1240.5."}) {
    EXPECT_EQ(NormalAnswer(same), "1240.5") << same;
  }
  EXPECT_EQ(NormalAnswer("-0.0"), "0");
  EXPECT_EQ(NormalAnswer("-007"), "-7");
  EXPECT_EQ(NormalAnswer(".5"), "0.5");
  EXPECT_EQ(NormalAnswer("100"), "100");
  // No thousands: a pair, or a mistake.
  EXPECT_EQ(NormalAnswer("1,24"), "1,24");
  EXPECT_EQ(NormalAnswer("1234,567"), "1234,567");
  EXPECT_EQ(NormalAnswer("x = 3"), "x=3");
  EXPECT_EQ(NormalAnswer("1.2.3"), "1.2.3");
}

TEST(Grading, PassAndConsensus) {
  v1::Usage usage;
  usage.set_completion_tokens(2000000);
  Grades grades;
  // Two of four right, and most boxes say so; one has no box.
  grades.Add("7", {"\\boxed{7}", "\\boxed{8}", "none", "\\boxed{07}"}, 4, usage, 0.5);
  // One of four right: outvoted. One answer failed.
  grades.Add("7", {"\\boxed{9}", "\\boxed{7}", "\\boxed{9}"}, 4, v1::Usage(), 0.25);
  // As many each: the first counts.
  grades.Add("7", {"\\boxed{7}", "\\boxed{9}"}, 2, v1::Usage(), 0);
  EXPECT_EQ(grades.questions(), 3u);
  EXPECT_EQ(grades.answers(), 10u);
  EXPECT_EQ(grades.right(), 4u);
  EXPECT_EQ(grades.without_box(), 2u);
  EXPECT_DOUBLE_EQ(grades.pass_at_1(), (0.5 + 0.25 + 0.5) / 3);
  EXPECT_DOUBLE_EQ(grades.cons_at_k(), 2.0 / 3);
  EXPECT_EQ(grades.output_tokens(), 2000000u);
  EXPECT_DOUBLE_EQ(grades.cost(), 0.75);
}

}  // namespace
}  // namespace whalepod
