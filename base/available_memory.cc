#include "base/available_memory.h"

#include <fstream>
#include <string>

namespace whalepod {

int64_t AvailableMemory() {
  std::ifstream file("/proc/meminfo");
  for (std::string name, rest; file >> name; std::getline(file, rest)) {
    int64_t kibibytes = 0;
    if (name == "MemAvailable:" && file >> kibibytes) return kibibytes * 1024;
  }
  return -1;
}

}  // namespace whalepod
