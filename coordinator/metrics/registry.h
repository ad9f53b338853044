// Metrics by name, and their text for Prometheus. prometheus-cpp gives the data model and the
// serialiser; values are our own, because its histogram takes a lock.
#pragma once

#include <prometheus/metric_family.h>

#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "coordinator/metrics/metric.h"

namespace whalepod {

enum class MetricKind { kCounter, kGauge, kHistogram };

// How a metric was declared.
struct MetricInfo {
  std::string name;
  MetricKind kind = MetricKind::kCounter;
  std::string help;                 // one line
  std::vector<std::string> labels;  // besides those that all of a registry have
};

class AnyFamily {
 public:
  explicit AnyFamily(MetricInfo info) : info_(std::move(info)) {}
  virtual ~AnyFamily() = default;
  const MetricInfo& info() const { return info_; }
  // All label sets, with `common` labels put before them.
  virtual prometheus::MetricFamily Collect(
      const std::vector<prometheus::ClientMetric::Label>& common) const = 0;

 private:
  const MetricInfo info_;
};

// A metric of one name, a value for each set of labels. Thread-safe.
template <typename T>
class Family final : public AnyFamily {
 public:
  explicit Family(MetricInfo info, std::vector<double> bounds = {});
  // The value of these labels' values, in the order of info().labels; made at the first call, lives
  // as long as the family. Takes a lock: keep the reference where it is used often.
  T& With(const std::vector<std::string>& values);
  // Calls fn(values, metric) for all that are there.
  template <typename Fn>
  void ForEach(Fn fn) {
    std::lock_guard lock(mu_);
    for (auto& [values, metric] : metrics_) fn(values, *metric);
  }
  prometheus::MetricFamily Collect(
      const std::vector<prometheus::ClientMetric::Label>& common) const override;

 private:
  const std::vector<double> bounds_;  // of histograms
  mutable std::mutex mu_;
  std::map<std::vector<std::string>, std::unique_ptr<T>> metrics_;
};

// Thread-safe, but for declarations.
class Registry {
 public:
  // `common` (name, value) is put on every metric.
  explicit Registry(std::pair<std::string, std::string> common);

  // Declares a metric. Names are unique; what is returned lives as long as the registry. One
  // without labels is there, as 0, from the beginning.
  Counter& AddCounter(std::string name, std::string help);
  Gauge& AddGauge(std::string name, std::string help);
  Histogram& AddHistogram(std::string name, std::string help, std::vector<double> bounds);
  Family<Counter>& AddCounters(std::string name, std::vector<std::string> labels, std::string help);
  Family<Gauge>& AddGauges(std::string name, std::vector<std::string> labels, std::string help);
  Family<Histogram>& AddHistograms(std::string name, std::vector<std::string> labels,
                                   std::string help, std::vector<double> bounds);

  // In the order of declaration.
  std::vector<MetricInfo> Declared() const;
  // Prometheus' text format, version 0.0.4. A labelled metric without a value is left out.
  std::string Text() const;

 private:
  template <typename T>
  Family<T>& Add(MetricInfo info, std::vector<double> bounds = {});

  const std::vector<prometheus::ClientMetric::Label> common_;
  std::vector<std::unique_ptr<AnyFamily>> families_;
};

}  // namespace whalepod
