// config.json and generation_config.json. Input: a first byte whose lowest bit chooses which, then
// the text.
#include "coordinator/checkpoint/config.h"

#include <cstdint>
#include <string>

#include "coordinator/checkpoint/inventory.h"
#include "tests/fuzz/fuzz.h"

namespace {

// Inventories up to here are made; the config's bounds allow larger ones.
constexpr int64_t kMaxExperts = 4096;

void CheckModel(const whalepod::v1::ModelSpec& model) {
  FUZZ_CHECK(model.vocab_size() > 0 && model.hidden_size() > 0);
  if (model.num_hidden_layers() * model.n_routed_experts() > kMaxExperts) return;
  for (const whalepod::InventoryTensor& tensor : whalepod::Inventory(model)) {
    int64_t elements = 0;
    FUZZ_CHECK(tensor.rows > 0 && tensor.cols > 0);
    FUZZ_CHECK(!__builtin_mul_overflow(tensor.rows, tensor.cols, &elements));
    FUZZ_CHECK(elements <= int64_t{1} << 53);
    FUZZ_CHECK(!whalepod::IsNextnTensor(model, tensor.name));
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t size) {
  if (size == 0) return 0;
  const std::string text(reinterpret_cast<const char*>(bytes) + 1, size - 1);
  if (bytes[0] & 1) {
    const auto model = whalepod::ParseModelConfig(text, "f");
    if (model.ok()) CheckModel(*model);
    return 0;
  }
  whalepod::v1::ModelSpec model;
  model.set_vocab_size(512);
  whalepod::GenerationDefaults defaults;
  if (!whalepod::ApplyGenerationConfig(text, "f", model, defaults).ok()) return 0;
  FUZZ_CHECK(defaults.temperature >= 0 && defaults.top_p > 0 && defaults.top_p <= 1);
  for (const int64_t id : model.eos_token_ids()) FUZZ_CHECK(id >= 0 && id < 512);
  return 0;
}
