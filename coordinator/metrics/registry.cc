#include "coordinator/metrics/registry.h"

#include <prometheus/check_names.h>
#include <prometheus/text_serializer.h>

#include <algorithm>
#include <limits>
#include <sstream>
#include <type_traits>

#include "base/check.h"

namespace whalepod {
namespace {

void Fill(const Counter& from, prometheus::ClientMetric* to) {
  to->counter.value = static_cast<double>(from.value());
}

void Fill(const Gauge& from, prometheus::ClientMetric* to) { to->gauge.value = from.value(); }

void Fill(const Histogram& from, prometheus::ClientMetric* to) {
  const Histogram::Snapshot snapshot = from.Read();
  uint64_t count = 0;
  for (size_t i = 0; i < snapshot.buckets.size(); ++i) {
    count += snapshot.buckets[i];
    to->histogram.bucket.push_back({.cumulative_count = count,
                                    .upper_bound = i < from.bounds().size()
                                                       ? from.bounds()[i]
                                                       : std::numeric_limits<double>::infinity()});
  }
  to->histogram.sample_count = count;
  to->histogram.sample_sum = snapshot.sum;
}

prometheus::MetricType TypeOf(MetricKind kind) {
  switch (kind) {
    case MetricKind::kCounter:
      return prometheus::MetricType::Counter;
    case MetricKind::kGauge:
      return prometheus::MetricType::Gauge;
    case MetricKind::kHistogram:
      return prometheus::MetricType::Histogram;
  }
  return prometheus::MetricType::Untyped;
}

}  // namespace

template <typename T>
Family<T>::Family(MetricInfo info, std::vector<double> bounds)
    : AnyFamily(std::move(info)), bounds_(std::move(bounds)) {}

template <typename T>
T& Family<T>::With(const std::vector<std::string>& values) {
  CHECK_EQ(values.size(), info().labels.size());
  std::lock_guard lock(mu_);
  std::unique_ptr<T>& metric = metrics_[values];
  if (metric == nullptr) {
    if constexpr (std::is_same_v<T, Histogram>) {
      metric = std::make_unique<T>(bounds_);
    } else {
      metric = std::make_unique<T>();
    }
  }
  return *metric;
}

template <typename T>
prometheus::MetricFamily Family<T>::Collect(
    const std::vector<prometheus::ClientMetric::Label>& common) const {
  prometheus::MetricFamily out;
  out.name = info().name;
  out.help = info().help;
  out.type = TypeOf(info().kind);
  std::lock_guard lock(mu_);
  for (const auto& [values, metric] : metrics_) {
    prometheus::ClientMetric& one = out.metric.emplace_back();
    one.label = common;
    for (size_t i = 0; i < values.size(); ++i) one.label.push_back({info().labels[i], values[i]});
    Fill(*metric, &one);
  }
  return out;
}

Registry::Registry(std::pair<std::string, std::string> common)
    : common_{{std::move(common.first), std::move(common.second)}} {}

template <typename T>
Family<T>& Registry::Add(MetricInfo info, std::vector<double> bounds) {
  CHECK(prometheus::CheckMetricName(info.name));
  CHECK(info.help.find('\n') == std::string::npos);
  for (const auto& family : families_) CHECK_NE(family->info().name, info.name);
  auto family = std::make_unique<Family<T>>(std::move(info), std::move(bounds));
  Family<T>& added = *family;
  families_.push_back(std::move(family));
  return added;
}

Counter& Registry::AddCounter(std::string name, std::string help) {
  return AddCounters(std::move(name), {}, std::move(help)).With({});
}

Gauge& Registry::AddGauge(std::string name, std::string help) {
  return AddGauges(std::move(name), {}, std::move(help)).With({});
}

Histogram& Registry::AddHistogram(std::string name, std::string help, std::vector<double> bounds) {
  return AddHistograms(std::move(name), {}, std::move(help), std::move(bounds)).With({});
}

Family<Counter>& Registry::AddCounters(std::string name, std::vector<std::string> labels,
                                       std::string help) {
  return Add<Counter>({std::move(name), MetricKind::kCounter, std::move(help), std::move(labels)});
}

Family<Gauge>& Registry::AddGauges(std::string name, std::vector<std::string> labels,
                                   std::string help) {
  return Add<Gauge>({std::move(name), MetricKind::kGauge, std::move(help), std::move(labels)});
}

Family<Histogram>& Registry::AddHistograms(std::string name, std::vector<std::string> labels,
                                           std::string help, std::vector<double> bounds) {
  return Add<Histogram>(
      {std::move(name), MetricKind::kHistogram, std::move(help), std::move(labels)},
      std::move(bounds));
}

std::vector<MetricInfo> Registry::Declared() const {
  std::vector<MetricInfo> declared;
  for (const auto& family : families_) declared.push_back(family->info());
  return declared;
}

std::string Registry::Text() const {
  std::vector<prometheus::MetricFamily> families;
  for (const auto& family : families_) {
    prometheus::MetricFamily collected = family->Collect(common_);
    if (!collected.metric.empty()) families.push_back(std::move(collected));
  }
  std::ostringstream out;
  prometheus::TextSerializer().Serialize(out, families);
  return std::move(out).str();
}

template class Family<Counter>;
template class Family<Gauge>;
template class Family<Histogram>;

}  // namespace whalepod
