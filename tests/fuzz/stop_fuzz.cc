// Stop strings, and the text that they end. Input: how the text is cut (one byte), then fields
// separated by 0x1F: the text, then the stop strings.
#include <cstdint>
#include <string>
#include <vector>

#include "coordinator/text/stop_strings.h"
#include "tests/fuzz/fuzz.h"

namespace whalepod {
namespace {

struct Outcome {
  bool stopped = false;
  std::string shown;
  std::string stopped_by;
};

// The text in pieces of `piece` bytes; reasoning up to the first 0x1E, which is dropped.
std::vector<TextSpan> Spans(const std::string& text, size_t piece) {
  std::vector<TextSpan> spans;
  SpanKind kind = text.find('\x1E') != std::string::npos ? SpanKind::kReasoning : SpanKind::kAnswer;
  std::string now;
  const auto flush = [&] {
    if (!now.empty()) spans.push_back({kind, now});
    now.clear();
  };
  for (const char c : text) {
    if (c == '\x1E' && kind == SpanKind::kReasoning) {
      flush();
      kind = SpanKind::kAnswer;
      continue;
    }
    now += c;
    if (now.size() >= piece) flush();
  }
  flush();
  return spans;
}

Outcome Run(const std::vector<std::string>& stops, const std::vector<TextSpan>& spans) {
  StopStrings search(stops);
  std::vector<TextSpan> out;
  Outcome outcome;
  size_t given = 0;
  for (const TextSpan& span : spans) {
    given += span.text.size();
    outcome.stopped = search.Add(span, out);
    size_t shown = 0;
    for (const TextSpan& one : out) shown += one.text.size();
    FUZZ_CHECK(shown <= given);
    if (outcome.stopped) break;
  }
  if (!outcome.stopped) search.Finish(out);
  outcome.stopped_by = search.stopped_by();
  SpanKind kind = spans.empty() ? SpanKind::kAnswer : spans.front().kind;
  for (const TextSpan& span : out) {
    if (span.kind != kind) outcome.shown += '\x1E';
    kind = span.kind;
    outcome.shown += span.text;
  }
  return outcome;
}

}  // namespace
}  // namespace whalepod

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t size) {
  if (size < 2 || size > 4096) return 0;
  std::vector<std::string> fields(1);
  for (size_t i = 1; i < size; ++i) {
    if (bytes[i] == 0x1F) {
      fields.emplace_back();
    } else {
      fields.back().push_back(static_cast<char>(bytes[i]));
    }
  }
  std::vector<std::string> stops;
  for (size_t i = 1; i < fields.size() && stops.size() < 16; ++i) {
    if (!fields[i].empty()) stops.push_back(fields[i].substr(0, 256));
  }
  const std::vector<whalepod::TextSpan> whole = whalepod::Spans(fields[0], fields[0].size() + 1);
  const whalepod::Outcome expected = whalepod::Run(stops, whole);
  const whalepod::Outcome cut = whalepod::Run(stops, whalepod::Spans(fields[0], 1 + bytes[0] % 16));
  FUZZ_CHECK(cut.stopped == expected.stopped);
  FUZZ_CHECK(cut.shown == expected.shown);
  FUZZ_CHECK(cut.stopped_by == expected.stopped_by);
  if (!expected.stopped) return 0;
  // The string stands right behind what is shown, and no other was complete before.
  for (const std::string& stop : stops) {
    FUZZ_CHECK(stop.find('\x1E') != std::string::npos ||
               expected.shown.find(stop) == std::string::npos);
  }
  return 0;
}
