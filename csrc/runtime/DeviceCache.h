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
#include "runtime/MemoryHistory.h"
#include "runtime/PrivatePool.h"

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

  // Gives all segments that are free back to the device; with an id, those of
  // that private pool, if nobody uses it any more.
  void empty_cache(MempoolId_t id = {0, 0});

  // See CachingAllocator.h. In DeviceCachePools.cpp.
  void retain_pool(MempoolId_t id);
  void release_pool(MempoolId_t id);
  void begin_allocate_to_pool(MempoolId_t id, std::function<bool(orStream_t)> filter);
  void end_allocate_to_pool(MempoolId_t id);
  int pool_use_count(MempoolId_t id);

  void set_caching(bool enabled);
  bool is_caching();

  AllocatorStats stats();
  // The part of c10's statistics about private pools.
  void add_pool_stats(c10::CachingDeviceAllocator::DeviceStats& stats);
  Usage usage();
  void reset_accumulated_stats();
  void reset_peak_stats();

  void set_memory_fraction(double fraction);
  double memory_fraction();

  void snapshot(std::vector<c10::CachingDeviceAllocator::SegmentInfo>& into);

  // See Note [Memory history]. In DeviceCacheHistory.cpp.
  void configure_history(const MemoryHistoryOptions& options, bool clear);
  std::vector<TraceEntry> history();
  // The stack of the live block that begins there.
  Context allocation_context(const void* address);
  void set_context(Block* block, Context context);

 private:
  using Lock = std::unique_lock<std::mutex>;

  // The freed blocks that wait for a stream which is not their own, each with
  // the point it waits for.
  struct StreamUses {
    orStream_t stream;
    bool destroyed;
    std::vector<std::pair<uint64_t, Block*>> waiting;
  };

  // An allocation's way to a private pool.
  struct Route {
    PrivatePool* pool;
    std::function<bool(orStream_t)> filter;
  };

  BlockPool& pool(orStream_t stream, bool small);
  // The private pool that routes lead to from `stream`, or nullptr.
  PrivatePool* routed(orStream_t stream) const;
  bool is_routed(const PrivatePool* pool) const;
  StreamPools& stream_pools(PrivatePool* owner, orStream_t stream);
  PrivatePool& retain_locked(MempoolId_t id);
  void find_freeable_segments(MempoolId_t id, std::vector<Block*>& into);
  void erase_freed_pools();
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
  void release_cached(Lock& lock, MempoolId_t id);
  void release_unused(Lock& lock);
  // Takes a free block that is a whole segment out of its pool.
  void* detach_segment(Block* segment);
  size_t allowed() const;

  void wait_for_uses(Lock& lock);
  void reclaim_pending();
  void reclaim(StreamUses& uses, uint64_t completed);
  void free_after_uses(Block* block);
  void make_free(Block* block);
  Usage usage_locked() const;
  void record(TraceEntry::Action action, const Block* block, size_t size, Context context);

  const DeviceIndex device_;
  size_t capacity_ = 0;

  // Held, without mutex_, by the host thread that makes room, so that another
  // one tries again only when that is done.
  std::mutex release_mutex_;

  std::mutex mutex_;
  AllocatorStats stats_;
  BlockArena arena_;
  StreamPoolMap pools_;
  orStream_t last_stream_ = nullptr;
  StreamPools* last_pools_ = nullptr;
  std::unordered_map<MempoolId_t, std::unique_ptr<PrivatePool>, MempoolIdHash> private_pools_;
  std::vector<Route> routes_;
  MemoryTrace history_;
  // The first block of each.
  std::unordered_set<Block*> segments_;
  // Being asked from the device right now.
  size_t reserving_ = 0;
  double fraction_ = 1;
  bool caching_ = true;
  std::vector<StreamUses> uses_;
  size_t pending_ = 0;
};

} // namespace c10::openreg
