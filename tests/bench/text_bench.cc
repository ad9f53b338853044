// How fast text becomes ids and ids become text.
//
// usage: text_bench FOLDER TEXT [Google Benchmark's flags]
// FOLDER holds a tokenizer.json, TEXT is a file of UTF-8. tests/bench/text_ratio.py gives the ratio
// to Hugging Face's tokenizers.
#include <benchmark/benchmark.h>

#include <cstdio>
#include <fstream>
#include <sstream>
#include <string>

#include "coordinator/text/reasoning_parser.h"
#include "coordinator/text/tokenizer.h"

namespace whalepod {
namespace {

void Encode(benchmark::State& state, const Tokenizer& tokenizer, const std::string& text) {
  size_t ids = 0;
  for (auto _ : state) {
    const auto encoded = tokenizer.Encode(text);
    ids = encoded.ok() ? encoded->size() : 0;
    benchmark::DoNotOptimize(ids);
  }
  state.SetBytesProcessed(static_cast<int64_t>(state.iterations() * text.size()));
  state.counters["ids"] = static_cast<double>(ids);
}

// As a prompt of some 20 words: without the help of words that come again.
void EncodeShort(benchmark::State& state, const Tokenizer& tokenizer, const std::string& text) {
  size_t at = 0;
  size_t bytes = 0;
  for (auto _ : state) {
    size_t end = text.find(' ', std::min(at + 120, text.size()));
    end = std::min(end, text.size());
    benchmark::DoNotOptimize(tokenizer.Encode(absl::string_view(text).substr(at, end - at)));
    bytes += end - at;
    at = end == text.size() ? 0 : end;
  }
  state.SetBytesProcessed(static_cast<int64_t>(bytes));
}

void DetokenizeAndParse(benchmark::State& state, const std::shared_ptr<const Tokenizer>& tokenizer,
                        const std::vector<uint32_t>& ids) {
  for (auto _ : state) {
    ReasoningParser parser(tokenizer, ReasoningStart::kOpen, SpecialTokens::kSkip);
    std::vector<TextSpan> spans;
    for (const uint32_t id : ids) {
      spans.clear();
      parser.Add(id, spans);
      benchmark::DoNotOptimize(spans.data());
    }
    parser.Finish(spans);
  }
  state.counters["per_token"] =
      benchmark::Counter(static_cast<double>(state.iterations() * ids.size()),
                         benchmark::Counter::kIsRate | benchmark::Counter::kInvert);
}

int Run(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  if (argc != 3) {
    std::fprintf(stderr, "usage: text_bench FOLDER TEXT\n");
    return 2;
  }
  const auto tokenizer = Tokenizer::FromFolder(argv[1]);
  std::stringstream text;
  text << std::ifstream(argv[2], std::ios::binary).rdbuf();
  if (!tokenizer.ok() || text.str().empty()) {
    std::fprintf(stderr, "%s\n",
                 tokenizer.ok() ? "no text" : tokenizer.status().ToString().c_str());
    return 1;
  }
  const auto ids = (*tokenizer)->Encode(text.str());
  if (!ids.ok()) {
    std::fprintf(stderr, "%s\n", ids.status().ToString().c_str());
    return 1;
  }
  const std::string whole = text.str();
  const auto add = [](const char* name, auto run) {
    benchmark::RegisterBenchmark(name, run)->Unit(benchmark::kMillisecond);
  };
  add("encode", [&](benchmark::State& state) { Encode(state, **tokenizer, whole); });
  add("encode_short", [&](benchmark::State& state) { EncodeShort(state, **tokenizer, whole); });
  add("detokenize_and_parse",
      [&](benchmark::State& state) { DetokenizeAndParse(state, *tokenizer, *ids); });
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}

}  // namespace
}  // namespace whalepod

int main(int argc, char** argv) { return whalepod::Run(argc, argv); }
