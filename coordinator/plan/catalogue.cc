#include "coordinator/plan/catalogue.h"

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "base/status.h"
#include "base/units.h"

namespace whalepod {
namespace {

constexpr int kMaxGpus = 1 << 14;

std::string Canonical(const std::string& name) {
  std::string out;
  for (const char c : name) {
    if (c != ' ' && c != '-' && c != '_') out.push_back(absl::ascii_tolower(c));
  }
  return out;
}

absl::Status BadText(const std::string& text) {
  return absl::InvalidArgumentError(
      absl::StrCat("\"", text, "\" is no set of GPUs; expected e.g. 16xH200 or 2x8xH200 with 1 to ",
                   kMaxGpus, " GPUs"));
}

}  // namespace

// Memory, bandwidth and peak rates: aiconfigurator's system files at 095f58a for H100, H200, A100,
// B200, GB200, B300 and L40S (H200's memory corrected to what nvidia-smi shows); H800 and H20 from
// LMSYS's post of 2025-09-26; RTX 6000 Ada from grafikkarten.com, its rates from SMs and clock;
// RTX 4090 from vLLM issue 7553; MI300X from GenZ's system_configs.py.
const std::vector<GpuModel>& GpuCatalogue() {
  static const auto* gpus = new std::vector<GpuModel>{
      {"H100",
       {"H100-SXM", "H100-80GB", "H100 80GB HBM3", "NVIDIA H100 80GB HBM3"},
       80,
       3350,
       989,
       1979,
       8},
      {"H100-PCIe", {"H100 PCIe 80GB", "NVIDIA H100 PCIe"}, 80, 2000, 756.5, 1513, 8},
      {"H200", {"H200-SXM", "H200-141GB", "NVIDIA H200"}, 140.4, 4800, 989, 1979, 8},
      {"H800", {"H800-SXM", "H800-80GB", "NVIDIA H800"}, 80, 3352, 989, 1979, 8},
      {"H20", {"H20-96GB", "H20-96G", "NVIDIA H20"}, 96, 4000, 148, 296, 8},
      {"A100-80GB",
       {"A100", "A100-80", "A100-SXM", "A100-SXM-80G", "A100-SXM4-80GB", "NVIDIA A100-SXM4-80GB"},
       80,
       2039,
       312,
       0,
       8},
      {"B200", {"B200-SXM", "NVIDIA B200"}, 180, 7700, 2250, 4500, 8},
      {"GB200", {"GB200-NVL72", "NVIDIA GB200"}, 185, 8000, 2500, 5000, 4},
      {"B300", {"B300-SXM", "NVIDIA B300"}, 268.6, 7750, 2250, 4500, 8},
      {"L40S", {"NVIDIA L40S"}, 45, 864, 362, 733, 8},
      {"RTX-6000-Ada",
       {"RTX6000Ada", "RTX 6000 Ada Generation", "NVIDIA RTX 6000 Ada Generation"},
       48,
       960,
       364,
       728,
       8},
      {"RTX-4090",
       {"4090", "GeForce RTX 4090", "NVIDIA GeForce RTX 4090"},
       24,
       1008,
       165.2,
       330.3,
       8},
      {"MI300X", {"AMD Instinct MI300X", "Instinct MI300X"}, 192, 5300, 1307, 2614, 8},
  };
  return *gpus;
}

absl::StatusOr<GpuModel> FindGpu(const std::string& name) {
  const std::string wanted = Canonical(name);
  std::vector<std::string> names;
  for (const GpuModel& gpu : GpuCatalogue()) {
    names.push_back(gpu.name);
    if (Canonical(gpu.name) == wanted) return gpu;
    for (const std::string& alias : gpu.aliases) {
      if (Canonical(alias) == wanted) return gpu;
    }
  }
  return absl::NotFoundError(absl::StrCat("no GPU \"", name, "\" in the catalogue; there are ",
                                          absl::StrJoin(names, ", ")));
}

absl::StatusOr<std::vector<v1::Host>> ParseGpus(const std::string& text) {
  // Leading "<number>x" pieces, then the name.
  std::vector<int> counts;
  std::string rest = text;
  while (counts.size() < 2) {
    const size_t digits = rest.find_first_not_of("0123456789");
    if (digits == 0 || digits == std::string::npos || absl::ascii_tolower(rest[digits]) != 'x') {
      break;
    }
    int count = 0;
    if (!absl::SimpleAtoi(rest.substr(0, digits), &count) || count < 1 || count > kMaxGpus) {
      return BadText(text);
    }
    counts.push_back(count);
    rest = rest.substr(digits + 1);
  }
  if (rest.empty()) return BadText(text);
  ASSIGN_OR_RETURN(const GpuModel gpu, FindGpu(rest));
  int64_t total = counts.empty() ? 1 : counts[0];
  int64_t per_node = gpu.per_node;
  if (counts.size() == 2) {
    per_node = counts[1];
    total *= counts[1];
  }
  if (total > kMaxGpus) return BadText(text);
  std::vector<v1::Host> hosts;
  for (int64_t left = total; left > 0; left -= per_node) {
    v1::Host& host = hosts.emplace_back();
    host.set_name(absl::StrCat("node", hosts.size() - 1));
    host.set_device_name(gpu.name);
    host.set_devices(static_cast<int32_t>(std::min(left, per_node)));
    host.set_memory_bytes(host.devices() *
                          static_cast<int64_t>(gpu.memory_gib * static_cast<double>(kGiB)));
  }
  return hosts;
}

}  // namespace whalepod
