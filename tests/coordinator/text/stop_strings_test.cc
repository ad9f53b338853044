#include "coordinator/text/stop_strings.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>

namespace whalepod {
namespace {

using ::testing::ElementsAre;

TextSpan Answer(std::string text) { return {SpanKind::kAnswer, std::move(text)}; }
TextSpan Reasoning(std::string text) { return {SpanKind::kReasoning, std::move(text)}; }

TEST(StopStringsTest, EndsBeforeTheString) {
  StopStrings stops({"END"});
  std::vector<TextSpan> out;
  EXPECT_FALSE(stops.Add(Answer("abcE"), out));
  EXPECT_THAT(out, ElementsAre(Answer("abc")));  // "E" is held back
  EXPECT_FALSE(stops.Add(Answer("EN"), out));
  EXPECT_TRUE(stops.Add(Answer("Dxyz"), out));
  EXPECT_THAT(out, ElementsAre(Answer("abcE")));
  EXPECT_EQ(stops.stopped_by(), "END");
}

TEST(StopStringsTest, TheFirstThatIsCompleteCounts) {
  StopStrings stops({"bcd", "c", "abc"});
  std::vector<TextSpan> out;
  EXPECT_TRUE(stops.Add(Answer("xabcd"), out));  // "abc" and "c" are complete at one byte
  EXPECT_EQ(stops.stopped_by(), "abc");
  EXPECT_THAT(out, ElementsAre(Answer("x")));
}

TEST(StopStringsTest, NotAcrossKinds) {
  StopStrings stops({"ab"});
  std::vector<TextSpan> out;
  EXPECT_FALSE(stops.Add(Reasoning("xa"), out));
  EXPECT_FALSE(stops.Add(Answer("ba"), out));
  stops.Finish(out);
  EXPECT_THAT(out, ElementsAre(Reasoning("xa"), Answer("ba")));
}

// Against a search of the whole text, however it is cut.
TEST(StopStringsTest, PiecesMakeNoDifference) {
  std::mt19937 random(5);
  const auto text_of = [&](size_t most) {
    std::string text(1 + random() % most, 'a');
    for (char& c : text) c = static_cast<char>('a' + random() % 2);
    return text;
  };
  for (int trial = 0; trial < 20000; ++trial) {
    const std::string text = text_of(30);
    std::vector<std::string> names;
    for (int i = 0; i < 3; ++i) names.push_back(text_of(6));
    size_t begin = text.size(), end = text.size() + 1;
    for (const std::string& name : names) {
      const size_t at = text.find(name);
      if (at == std::string::npos) continue;
      if (at + name.size() < end || (at + name.size() == end && at < begin)) {
        begin = at;
        end = at + name.size();
      }
    }
    StopStrings stops(names);
    std::vector<TextSpan> out;
    bool stopped = false;
    for (size_t at = 0; at < text.size() && !stopped;) {
      const size_t n = 1 + random() % 4;
      stopped = stops.Add(Answer(text.substr(at, n)), out);
      at += n;
    }
    if (!stopped) stops.Finish(out);
    EXPECT_EQ(stopped, end <= text.size());
    EXPECT_EQ(out.empty() ? "" : out[0].text, text.substr(0, begin)) << text;
  }
}

}  // namespace
}  // namespace whalepod
