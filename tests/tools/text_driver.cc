// Runs the coordinator's text code on what a script sends; for comparisons with other
// implementations.
//
// usage: text_driver encode FOLDER   frames of text in, frames of ids out
//        text_driver decode FOLDER   frames of ids in, frames of text out (special tokens kept)
// A frame is a little-endian uint32 with its bytes, then the bytes. A text that is refused gives a
// frame of the single id 0xFFFFFFFF, and the reason on stderr.
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

#include "coordinator/text/tokenizer.h"

namespace whalepod {
namespace {

bool ReadFrame(std::string& frame) {
  uint32_t size = 0;
  if (std::fread(&size, sizeof(size), 1, stdin) != 1) return false;
  frame.resize(size);
  return size == 0 || std::fread(frame.data(), size, 1, stdin) == 1;
}

void WriteFrame(const void* data, size_t size) {
  const uint32_t bytes = static_cast<uint32_t>(size);
  std::fwrite(&bytes, sizeof(bytes), 1, stdout);
  std::fwrite(data, 1, size, stdout);
}

void EncodeAll(const Tokenizer& tokenizer) {
  for (std::string frame; ReadFrame(frame);) {
    absl::StatusOr<std::vector<uint32_t>> ids = tokenizer.Encode(frame);
    if (!ids.ok()) {
      std::fprintf(stderr, "%s\n", ids.status().ToString().c_str());
      ids = std::vector<uint32_t>{~0u};
    }
    WriteFrame(ids->data(), ids->size() * sizeof(uint32_t));
  }
}

void DecodeAll(const Tokenizer& tokenizer) {
  for (std::string frame; ReadFrame(frame);) {
    std::vector<uint32_t> ids(frame.size() / sizeof(uint32_t));
    std::memcpy(ids.data(), frame.data(), ids.size() * sizeof(uint32_t));
    const std::string text = tokenizer.Decode(ids, SpecialTokens::kKeep);
    WriteFrame(text.data(), text.size());
  }
}

int Run(int argc, char** argv) {
  const std::string command = argc > 2 ? argv[1] : "";
  if (command != "encode" && command != "decode") {
    std::fprintf(stderr, "usage: text_driver encode|decode FOLDER\n");
    return 2;
  }
  const absl::StatusOr<std::shared_ptr<const Tokenizer>> tokenizer = Tokenizer::FromFolder(argv[2]);
  if (!tokenizer.ok()) {
    std::fprintf(stderr, "%s\n", tokenizer.status().ToString().c_str());
    return 1;
  }
  command == "encode" ? EncodeAll(**tokenizer) : DecodeAll(**tokenizer);
  return 0;
}

}  // namespace
}  // namespace whalepod

int main(int argc, char** argv) { return whalepod::Run(argc, argv); }
