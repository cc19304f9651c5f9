#pragma once

// One device's caching allocator: which memory of the device is reserved, used
// and free. The policy is the usual one: small blocks (up to 1 MiB) are cut from
// segments of 2 MiB, larger ones from segments of 20 MiB, from 10 MiB on a block
// has a segment of its own; free blocks belong to the stream that used them.
//
// Note [Waiting and the allocator's lock]
// A running kernel may allocate, so whoever waits for the device must not hold
// the lock: orFree, synchronisation and, to be safe, orMalloc are called with
// the lock released, and what they work on has been taken out of the pools.

#include <memory>
#include <mutex>
#include <unordered_map>
#include <unordered_set>

#include "runtime/BlockPool.h"
#include "runtime/CachingAllocator.h"

namespace c10::openreg {

class DeviceCache {
 public:
  using Order = CachingAllocator::Order;

  // Bytes, after the call that returned it.
  struct Usage {
    size_t allocated;
    size_t reserved;
  };

  explicit DeviceCache(DeviceIndex device);
  DeviceCache(const DeviceCache&) = delete;
  DeviceCache& operator=(const DeviceCache&) = delete;

  DeviceIndex device() const {
    return device_;
  }

  // Raises OutOfMemoryError.
  Block* allocate(size_t nbytes, orStream_t stream, Order order, Usage& usage);
  // For later work only; `in_kernel`: work that is queued now may use it too.
  Usage free(Block* block, bool in_kernel);
  void record_stream(Block* block, orStream_t stream);

  // Gives all segments that are free back to the device.
  void empty_cache();

  AllocatorStats stats();
  Usage usage();
  void reset_accumulated_stats();
  void reset_peak_stats();

  void set_memory_fraction(double fraction);
  double memory_fraction();

  void snapshot(std::vector<c10::CachingDeviceAllocator::SegmentInfo>& into);

 private:
  using Lock = std::unique_lock<std::mutex>;

  struct StreamPools {
    BlockPool small;
    BlockPool large;
  };
  // The freed blocks that wait for a stream which is not their own, each with
  // the point it waits for.
  struct StreamUses {
    orStream_t stream;
    bool destroyed;
    std::vector<std::pair<uint64_t, Block*>> waiting;
  };

  BlockPool& pool(orStream_t stream, bool small);
  template <typename Function>
  void for_each_pool(Function function) {
    for (auto& [stream, pools] : pools_) {
      function(pools->small);
      function(pools->large);
    }
  }

  Block* allocate_slow(Lock& lock, BlockPool& pool, size_t size, Order order, uint64_t completed);
  [[noreturn]] void raise_out_of_memory(Lock& lock, size_t nbytes);

  Block* borrow(orStream_t stream, bool small, size_t size);

  // Memory from and to the device; these release the lock meanwhile.
  Block* allocate_segment(Lock& lock, BlockPool& pool, size_t size);
  Block* allocate_smallest_segment(Lock& lock, BlockPool& pool, size_t size);
  Block* new_segment(Lock& lock, BlockPool& pool, size_t bytes, size_t size);
  void collect_garbage(Lock& lock);
  void release_cached(Lock& lock);
  void release_unused(Lock& lock);
  // Takes a free block that is a whole segment out of its pool.
  void* detach_segment(Block* segment);
  size_t allowed() const;

  void wait_for_uses(Lock& lock);
  void reclaim_pending();
  void reclaim(StreamUses& uses, uint64_t completed);
  void make_free(Block* block);
  Usage usage_locked() const;

  const DeviceIndex device_;
  size_t capacity_ = 0;

  // Held, without mutex_, by the host thread that makes room, so that another
  // one tries again only when that is done.
  std::mutex release_mutex_;

  std::mutex mutex_;
  AllocatorStats stats_;
  BlockArena arena_;
  // A private pool of a graph would be another such map.
  std::unordered_map<orStream_t, std::unique_ptr<StreamPools>> pools_;
  orStream_t last_stream_ = nullptr;
  StreamPools* last_pools_ = nullptr;
  // The first block of each.
  std::unordered_set<Block*> segments_;
  // Being asked from the device right now.
  size_t reserving_ = 0;
  double fraction_ = 1;
  std::vector<StreamUses> uses_;
  size_t pending_ = 0;
};

} // namespace c10::openreg
