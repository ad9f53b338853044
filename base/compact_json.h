// JSON as it is written out.
#pragma once

#include <string>

#include "nlohmann/json.hpp"

namespace whalepod {

// On one line, without spaces; bytes that are no UTF-8 as U+FFFD. `Json`: nlohmann's, ordered or
// not.
template <typename Json>
std::string CompactJson(const Json& json) {
  return json.dump(-1, ' ', /*ensure_ascii=*/false, Json::error_handler_t::replace);
}

}  // namespace whalepod
