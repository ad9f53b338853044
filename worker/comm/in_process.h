// Communicators between threads of one process, for tests: a mutex, a condition variable and
// copies. The plain reference that the other implementations are compared with.
#pragma once

#include <memory>
#include <vector>

#include "worker/comm/communicator.h"

namespace whalepod {

// The ranks of one world; lives at least as long as its factories. Groups are found by session,
// name and ranks, so that several epochs can use one world.
class InProcessWorld {
 public:
  explicit InProcessWorld(int size, const Clock* clock = Clock::Real());
  ~InProcessWorld();
  InProcessWorld(const InProcessWorld&) = delete;
  InProcessWorld& operator=(const InProcessWorld&) = delete;

  int size() const { return static_cast<int>(factories_.size()); }
  // Owned by the world.
  CommunicatorFactory* factory(int rank) { return factories_[rank].get(); }

 private:
  std::vector<std::unique_ptr<CommunicatorFactory>> factories_;
};

}  // namespace whalepod
