#pragma once

#include <memory>
#include <mutex>
#include <vector>

#include "Event.h"
#include "HandlePool.h"
#include "LaunchQueue.h"

namespace openreg {

struct Work;

// A list of captured work whose order is that of the capture. That is a valid
// order of execution: a node can only depend on what was captured before. The
// graph's handle, its executables and queued launches hold a reference each.
struct Graph : Pooled {
  struct Node {
    Record record; // as in a queue; the closure is in closures_
    uint64_t stream;
    std::vector<size_t> depends;
  };

  void recycle();

  // Takes over *closure; false if there is no memory for it.
  bool append(const Work& work, void* closure, uint64_t stream, std::vector<size_t> depends);

  // On a worker.
  void run(const orLaunchContext* context);

  Device* device = nullptr;
  std::vector<Node> nodes;

  // Launches are made one after the other, and each waits for the one before,
  // wherever that is.
  std::mutex launch_mutex;
  Point last_launch;

 private:
  struct Chunk {
    static constexpr size_t kBytes = size_t(64) << 10;
    alignas(64) char bytes[kBytes];
  };
  void* allocate(const orClosureType* type);

  // Nodes next to each other have their closures next to each other.
  std::vector<std::unique_ptr<Chunk>> chunks_;
  size_t chunk_used_ = 0;
  // One launch can contain another one of the same graph's only through a
  // graph in between; this keeps those apart.
  std::mutex run_mutex_;
};

struct GraphExec : Pooled {
  void recycle();

  Graph* graph = nullptr; // a reference
};

extern HandlePool<Graph> graphPool;

} // namespace openreg
