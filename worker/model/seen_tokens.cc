#include "worker/model/seen_tokens.h"

namespace whalepod {

void SeenTokens::Add(int32_t id, bool generated) {
  const auto [place, is_new] = place_.try_emplace(id, counts_.size());
  if (is_new) counts_.push_back({.id = id});
  if (generated) ++counts_[place->second].generated;
}

}  // namespace whalepod
