#pragma once

// A private pool: memory that serves only those who know the pool's id.
//
// Note [Memory of graphs]
// A graph's nodes keep their addresses, so what is allocated while it is
// captured comes from a private pool, and what is freed stays there: later nodes
// of the capture reuse it, as do other graphs that share the pool. Streams' work
// counts say nothing about captured work, which was never issued. So a block
// that was recorded on another stream is not reused before the capture ends, and
// the pool's memory goes back to the device only when the device is idle.

#include <memory>
#include <unordered_map>
#include <vector>

#include "runtime/BlockPool.h"

namespace c10::openreg {

struct StreamPools {
  BlockPool small;
  BlockPool large;

  BlockPool& of(bool is_small) {
    return is_small ? small : large;
  }
};

using StreamPoolMap = std::unordered_map<orStream_t, std::unique_ptr<StreamPools>>;

struct PrivatePool {
  explicit PrivatePool(MempoolId_t id) : id(id) {}

  const MempoolId_t id;
  int users = 0;
  size_t segments = 0;
  Counter reserved_bytes;
  StreamPoolMap pools;
  // Freed during a capture, see the note.
  std::vector<Block*> deferred;
};

} // namespace c10::openreg
