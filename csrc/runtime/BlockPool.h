#pragma once

// The free blocks of one stream and one size class, and how one is chosen.
//
// Note [Bins]
// Programs free and allocate the same few sizes over and over. So a freed small
// block goes to a bin of its exact size first, last in first out, and is taken
// from there in a few instructions. It is merged with its neighbours only when
// the best-fit order has nothing that fits and before memory is asked from the
// device or given back to it; thus bins never make the allocator reserve more.
//
// Not locked: DeviceCache does.

#include <array>
#include <vector>

#include "runtime/AllocatorStats.h"
#include "runtime/Block.h"

namespace c10::openreg {

class DeviceCache;
struct PrivatePool;

class BlockPool {
 public:
  static constexpr size_t kGranularity = 512;
  static constexpr size_t kMaxSmall = 1 << 20;

  BlockPool(DeviceCache& cache,
            PrivatePool* owner,
            orStream_t stream,
            bool small,
            AllocatorStats& stats,
            BlockArena& arena)
      : cache_(cache), owner_(owner), stream_(stream), small_(small), stats_(stats), arena_(arena) {
  }
  BlockPool(const BlockPool&) = delete;
  BlockPool& operator=(const BlockPool&) = delete;

  DeviceCache& cache() const {
    return cache_;
  }
  // The private pool it is part of, if any.
  PrivatePool* owner() const {
    return owner_;
  }
  orStream_t stream() const {
    return stream_;
  }
  bool small() const {
    return small_;
  }

  // A block of `size` bytes, a multiple of kGranularity, whose count is at most
  // `completed`. nullptr if there is none.
  Block* take(size_t size, uint64_t completed);

  // Takes back a block with its count set.
  void put(Block* block);

  // Makes the block as small as `size` if the rest is worth keeping.
  void cut(Block* block, size_t size);

  // Merges what is binned. False if nothing was.
  bool flush();

  // Takes out a free block that is a whole segment.
  void remove(Block* block);

  // The free blocks, the binned ones excepted.
  const FreeBlocks& free_blocks() const {
    return free_;
  }
  uint64_t clock() const {
    return clock_;
  }

 private:
  static constexpr size_t kBins = kMaxSmall / kGranularity;

  Block* take_binned(size_t bin, uint64_t completed);
  Block* take_best_fit(size_t size, uint64_t completed);
  void insert(Block* block);
  void merge_and_insert(Block* block);
  // Keep the statistics of free blocks that are parts of segments.
  void enter(const Block* block);
  void leave(const Block* block);

  DeviceCache& cache_;
  PrivatePool* const owner_;
  const orStream_t stream_;
  const bool small_;
  AllocatorStats& stats_;
  BlockArena& arena_;

  FreeBlocks free_;
  uint64_t clock_ = 0;
  // By size: kGranularity, 2 * kGranularity, ...; and which are not empty.
  std::array<Block*, kBins> bins_{};
  std::array<uint64_t, kBins / 64> filled_{};
};

} // namespace c10::openreg
