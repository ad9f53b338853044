// Line plots and histograms as SVG, to stand inside a page: no script, no style sheet, no
// reference.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "absl/strings/string_view.h"

namespace whalepod {

// Text for an element or an attribute.
std::string EscapeXml(absl::string_view text);

struct Curve {
  std::string name;
  std::vector<std::pair<double, double>> points;  // x ascending
};

struct Plot {
  std::string title, x_label, y_label;
  std::vector<Curve> curves;
  bool steps = false;  // a value holds until the next point
  bool bars = false;   // from one point to the next, of the first curve
};

// One <svg> element; long curves are thinned to what can be seen, their extremes kept. A curve
// without points is named and not drawn.
std::string PlotSvg(const Plot& plot);

// The distribution of `sorted` (ascending): (value, part of all that is at most it, in percent).
std::vector<std::pair<double, double>> Cdf(const std::vector<double>& sorted);
// Counts of `sorted` in `bins` equal bins from 0 to its `percent` percentile, what is above it in
// the last: (lower end of the bin, count), then (upper end of the last, 0).
std::vector<std::pair<double, double>> Histogram(const std::vector<double>& sorted, int bins,
                                                 double percent);

}  // namespace whalepod
