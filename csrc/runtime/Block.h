#pragma once

// A piece of device memory that the caching allocator hands out or keeps.

#include <cstddef>
#include <cstdint>
#include <memory>
#include <set>
#include <vector>

#include "device/openreg.h"

namespace c10 {
struct GatheredContext;
}

namespace c10::openreg {

class BlockPool;
struct Block;

// The order of best fit: by size, then by address.
struct BlockOrder {
  using is_transparent = void;
  inline bool operator()(const Block* a, const Block* b) const;
  inline bool operator()(const Block* a, size_t size) const;
};

using FreeBlocks = std::set<Block*, BlockOrder>;

// A DataPtr's context is its block. Blocks of one segment (one orMalloc) are
// linked in the order of their addresses; the first one is the same object as
// long as the segment exists.
struct Block {
  enum class State : uint8_t {
    Live,    // handed out
    Pending, // freed, but another stream may still use it (record_stream)
    Binned,  // free, in a bin of its pool, not merged with its neighbours
    Free,    // free, in its pool's best-fit order
  };

  char* address = nullptr;
  size_t size = 0;
  size_t requested = 0;
  BlockPool* pool = nullptr;
  // Free: work issued on the pool's stream when it was freed, see
  // Note [Issue order and execution order].
  uint64_t count = 0;
  Block* next_binned = nullptr;
  State state = State::Live;
  // Pending: the streams of used_on that are not done yet.
  uint32_t uses_left = 0;

  Block* previous = nullptr;
  Block* next = nullptr;

  // The stack it was allocated from, see Note [Memory history].
  std::shared_ptr<c10::GatheredContext> context;

  // Other streams that the memory was recorded on.
  std::vector<orStream_t> used_on;

  // Where the block is in its pool's order, and the node it enters with, kept
  // while it is elsewhere so that freeing does not go to the heap.
  FreeBlocks::iterator position;
  FreeBlocks::node_type node;
  // The pool's clock when it became free, for garbage collection.
  uint64_t free_since = 0;

  bool is_split() const {
    return previous != nullptr || next != nullptr;
  }
};

inline bool BlockOrder::operator()(const Block* a, const Block* b) const {
  return a->size != b->size ? a->size < b->size : a->address < b->address;
}

inline bool BlockOrder::operator()(const Block* a, size_t size) const {
  return a->size < size;
}

// Makes block objects. Never gives memory back, since a DataPtr may point to
// one for as long as the process lives. Not locked.
class BlockArena {
 public:
  // Fields as of a new Block, its node excepted.
  Block* acquire();
  void release(Block* block);

 private:
  static constexpr size_t kSlab = 256;
  Block* free_ = nullptr;
};

} // namespace c10::openreg
