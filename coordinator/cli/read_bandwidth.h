// How fast this machine reads memory.
#pragma once

namespace whalepod {

// Bytes a second at which `threads` threads together read a buffer much larger than the caches, in
// the fastest of some plain ways; the best of several passes. Takes about a second.
double MeasureReadBandwidth(int threads);

}  // namespace whalepod
