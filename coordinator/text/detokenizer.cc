#include "coordinator/text/detokenizer.h"

namespace whalepod {

void Detokenizer::Add(uint32_t id, std::string& out) {
  if (special_ == SpecialTokens::kSkip && tokenizer_->IsSpecial(id)) return;
  assembler_.Add(tokenizer_->Bytes(id), out);
}

}  // namespace whalepod
