#include "coordinator/cli/bench/plot.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_replace.h"
#include "coordinator/cli/bench/statistics.h"

namespace whalepod {
namespace {

constexpr double kWidth = 640, kHeight = 300;
constexpr double kLeft = 64, kRight = 16, kTop = 32, kBottom = 48;
constexpr size_t kMostPoints = 400;
constexpr const char* kColours[] = {"#1f6f8b", "#d1495b", "#66a182", "#8d6cab"};

using Points = std::vector<std::pair<double, double>>;

// The least and the most of each piece, so that no peak is lost.
Points Thinned(const Points& points) {
  if (points.size() <= kMostPoints) return points;
  Points thinned;
  const size_t pieces = kMostPoints / 2;
  for (size_t piece = 0; piece < pieces; ++piece) {
    const auto begin = points.begin() + static_cast<ptrdiff_t>(piece * points.size() / pieces);
    const auto end = points.begin() + static_cast<ptrdiff_t>((piece + 1) * points.size() / pieces);
    auto [low, high] = std::minmax_element(
        begin, end, [](const auto& a, const auto& b) { return a.second < b.second; });
    if (high < low) std::swap(low, high);
    thinned.push_back(*low);
    if (high != low) thinned.push_back(*high);
  }
  if (thinned.back() != points.back()) thinned.push_back(points.back());
  return thinned;
}

// 1, 2 or 5 times a power of ten: about five of them up to `most`.
double TickStep(double most) {
  const double raw = most / 5;
  const double power = std::pow(10, std::floor(std::log10(raw)));
  for (const double factor : {1.0, 2.0, 5.0}) {
    if (factor * power >= raw) return factor * power;
  }
  return 10 * power;
}

struct Scale {
  double most_x = 0, most_y = 0;
  double X(double x) const { return kLeft + (kWidth - kLeft - kRight) * x / most_x; }
  double Y(double y) const { return kHeight - kBottom - (kHeight - kTop - kBottom) * y / most_y; }
};

Scale ScaleOf(const Plot& plot) {
  Scale scale;
  for (const Curve& curve : plot.curves) {
    for (const auto& [x, y] : curve.points) {
      scale.most_x = std::max(scale.most_x, x);
      scale.most_y = std::max(scale.most_y, y);
    }
  }
  if (!(scale.most_x > 0)) scale.most_x = 1;
  if (!(scale.most_y > 0)) scale.most_y = 1;
  return scale;
}

void AddText(double x, double y, const char* anchor, absl::string_view text, std::string* svg) {
  absl::StrAppendFormat(
      svg, "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"%s\" font-size=\"11\">%s</text>\n", x, y,
      anchor, EscapeXml(text));
}

void AddLine(double x1, double y1, double x2, double y2, std::string* svg) {
  absl::StrAppendFormat(svg,
                        "<line x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\" stroke=\"#ddd\"/>\n",
                        x1, y1, x2, y2);
}

void AddAxes(const Plot& plot, const Scale& scale, std::string* svg) {
  const double step_x = TickStep(scale.most_x), step_y = TickStep(scale.most_y);
  for (int i = 0; step_x * i <= scale.most_x * 1.0001; ++i) {
    const double x = scale.X(step_x * i);
    AddLine(x, kTop, x, kHeight - kBottom, svg);
    AddText(x, kHeight - kBottom + 16, "middle", absl::StrFormat("%g", step_x * i), svg);
  }
  for (int i = 0; step_y * i <= scale.most_y * 1.0001; ++i) {
    const double y = scale.Y(step_y * i);
    AddLine(kLeft, y, kWidth - kRight, y, svg);
    AddText(kLeft - 6, y + 4, "end", absl::StrFormat("%g", step_y * i), svg);
  }
  AddText(kWidth / 2, kHeight - 12, "middle", plot.x_label, svg);
  AddText(kLeft, kTop - 8, "start", plot.y_label, svg);
}

void AddCurve(const Curve& curve, bool steps, const Scale& scale, const char* colour,
              std::string* svg) {
  std::string path;
  double last_y = 0;
  for (const auto& [x, y] : Thinned(curve.points)) {
    if (steps && !path.empty()) absl::StrAppendFormat(&path, "%.1f,%.1f ", scale.X(x), last_y);
    last_y = scale.Y(y);
    absl::StrAppendFormat(&path, "%.1f,%.1f ", scale.X(x), last_y);
  }
  if (path.empty()) return;
  absl::StrAppendFormat(
      svg, "<polyline fill=\"none\" stroke=\"%s\" stroke-width=\"1.5\" points=\"%s\"/>\n", colour,
      path);
}

void AddBars(const Curve& curve, const Scale& scale, const char* colour, std::string* svg) {
  for (size_t i = 0; i + 1 < curve.points.size(); ++i) {
    const auto [x, y] = curve.points[i];
    const double left = scale.X(x), right = scale.X(curve.points[i + 1].first), top = scale.Y(y);
    absl::StrAppendFormat(
        svg, "<rect x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\" fill=\"%s\"/>\n", left,
        top, std::max(0.5, right - left - 0.5), kHeight - kBottom - top, colour);
  }
}

}  // namespace

std::string EscapeXml(absl::string_view text) {
  std::string escaped =
      absl::StrReplaceAll(text, {{"&", "&amp;"}, {"<", "&lt;"}, {">", "&gt;"}, {"\"", "&quot;"}});
  // What no XML text may have.
  std::erase_if(escaped, [](char c) {
    return static_cast<unsigned char>(c) < 0x20 && c != '\n' && c != '\t' && c != '\r';
  });
  return escaped;
}

std::string PlotSvg(const Plot& plot) {
  std::string svg = absl::StrFormat(
      "<svg viewBox=\"0 0 %g %g\" role=\"img\" aria-label=\"%s\">\n<title>%s</title>\n", kWidth,
      kHeight, EscapeXml(plot.title), EscapeXml(plot.title));
  const Scale scale = ScaleOf(plot);
  AddAxes(plot, scale, &svg);
  for (size_t i = 0; i < plot.curves.size(); ++i) {
    const Curve& curve = plot.curves[i];
    const char* const colour = kColours[i % std::size(kColours)];
    if (plot.bars) {
      AddBars(curve, scale, colour, &svg);
    } else {
      AddCurve(curve, plot.steps, scale, colour, &svg);
    }
    if (plot.curves.size() == 1) continue;
    const double x = kWidth - kRight - 70 * static_cast<double>(plot.curves.size() - i);
    absl::StrAppendFormat(&svg,
                          "<rect x=\"%.1f\" y=\"%.1f\" width=\"10\" height=\"10\" fill=\"%s\"/>\n",
                          x, kTop - 18, colour);
    AddText(x + 14, kTop - 9, "start", curve.name, &svg);
  }
  return svg + "</svg>\n";
}

std::vector<std::pair<double, double>> Cdf(const std::vector<double>& sorted) {
  Points points;
  for (size_t i = 0; i < sorted.size(); ++i) {
    points.emplace_back(sorted[i],
                        100 * static_cast<double>(i + 1) / static_cast<double>(sorted.size()));
  }
  return points;
}

std::vector<std::pair<double, double>> Histogram(const std::vector<double>& sorted, int bins,
                                                 double percent) {
  if (sorted.empty()) return {};
  const double top = Percentile(sorted, percent);
  const double width = (top > 0 ? top : 1) / bins;
  Points points;
  for (int i = 0; i <= bins; ++i) points.emplace_back(width * i, 0);
  for (const double value : sorted) {
    const auto bin = static_cast<size_t>(value / width);
    points[std::min(bin, static_cast<size_t>(bins - 1))].second += 1;
  }
  return points;
}

}  // namespace whalepod
