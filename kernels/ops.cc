// Validation and dispatch of every op; see kernels/ops.h.
#include "kernels/ops.h"

namespace whalepod {
absl::Status Backend::Embed(const EmbedArgs& args) { return DoEmbed(args); }
}  // namespace whalepod
