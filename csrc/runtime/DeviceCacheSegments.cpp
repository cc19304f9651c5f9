// DeviceCache's dealings with the device: getting segments, giving them back,
// and showing them.

#include <c10/core/AllocatorConfig.h>

#include <algorithm>

#include "runtime/Capture.h"
#include "runtime/DeviceCache.h"
#include "runtime/DeviceMemory.h"
#include "runtime/StreamPoint.h"

namespace c10::openreg {

using c10::CachingAllocator::AcceleratorAllocatorConfig;

static size_t smallest_segment_size(size_t size) {
  using namespace c10::CachingAllocator;
  return size <= BlockPool::kMaxSmall ? kSmallBuffer
                                      : (size + kRoundLarge - 1) / kRoundLarge * kRoundLarge;
}

static size_t segment_size(size_t size) {
  const size_t smallest = smallest_segment_size(size);
  return size > BlockPool::kMaxSmall && size < c10::CachingAllocator::kMinLargeAlloc
             ? std::max(smallest, AcceleratorAllocatorConfig::large_segment_size())
             : smallest;
}

size_t DeviceCache::allowed() const {
  return static_cast<size_t>(fraction_ * static_cast<double>(capacity_));
}

Block* DeviceCache::allocate_segment(Lock& lock, BlockPool& pool, size_t size) {
  return new_segment(lock, pool, segment_size(size), size);
}

// The last try: also without room for more blocks.
Block* DeviceCache::allocate_smallest_segment(Lock& lock, BlockPool& pool, size_t size) {
  if (Block* block = allocate_segment(lock, pool, size)) {
    return block;
  }
  const size_t smallest = smallest_segment_size(size);
  return smallest < segment_size(size) ? new_segment(lock, pool, smallest, size) : nullptr;
}

Block* DeviceCache::new_segment(Lock& lock, BlockPool& pool, size_t bytes, size_t size) {
  if (usage_locked().reserved + reserving_ + bytes > allowed()) {
    return nullptr;
  }
  reserving_ += bytes;
  lock.unlock();
  Context context = gather_context(RecordContext::STATE);
  void* address = nullptr;
  std::exception_ptr error;
  try {
    // A capture's own allocation does not disturb it.
    const RelaxedCapture relaxed(is_capturing(pool.stream()));
    address = device_malloc(device_, bytes);
  } catch (...) {
    error = std::current_exception();
  }
  lock.lock();
  reserving_ -= bytes;
  if (error) {
    std::rethrow_exception(error);
  }
  if (address == nullptr) {
    return nullptr;
  }

  Block* segment = arena_.acquire();
  segment->address = static_cast<char*>(address);
  segment->size = bytes;
  segment->pool = &pool;
  segments_.insert(segment);
  if (PrivatePool* owner = pool.owner()) {
    owner->segments++;
    owner->reserved_bytes.increase(static_cast<int64_t>(bytes));
  }
  stats_.num_device_alloc++;
  for (PoolStats* stats : {&stats_.all, &stats_.of(pool.small())}) {
    stats->segment.increase(1);
    stats->reserved_bytes.increase(static_cast<int64_t>(bytes));
  }
  if (bytes >= AcceleratorAllocatorConfig::max_split_size()) {
    stats_.oversize_segments.increase(1);
  }
  if (C10_UNLIKELY(history_.enabled())) {
    record(TraceEntry::SEGMENT_ALLOC, segment, bytes, std::move(context));
  }
  pool.cut(segment, size);
  return segment;
}

void* DeviceCache::detach_segment(Block* segment) {
  BlockPool& pool = *segment->pool;
  pool.remove(segment);
  segments_.erase(segment);
  if (PrivatePool* owner = pool.owner()) {
    owner->segments--;
    owner->reserved_bytes.decrease(static_cast<int64_t>(segment->size));
  }
  if (C10_UNLIKELY(history_.enabled())) {
    record(TraceEntry::SEGMENT_FREE, segment, segment->size, nullptr);
  }
  stats_.num_device_free++;
  for (PoolStats* stats : {&stats_.all, &stats_.of(pool.small())}) {
    stats->segment.decrease(1);
    stats->reserved_bytes.decrease(static_cast<int64_t>(segment->size));
  }
  if (segment->size >= AcceleratorAllocatorConfig::max_split_size()) {
    stats_.oversize_segments.decrease(1);
  }
  void* address = segment->address;
  arena_.release(segment);
  return address;
}

// The free blocks of a pool that are whole segments.
static void find_segments(BlockPool& pool, std::vector<Block*>& into) {
  pool.flush();
  for (Block* block : pool.free_blocks()) {
    if (!block->is_split()) {
      into.push_back(block);
    }
  }
}

// Of private pools, those without users.
void DeviceCache::find_freeable_segments(MempoolId_t id, std::vector<Block*>& into) {
  for (auto& [pool_id, owner] : private_pools_) {
    if (owner->users == 0 && (id == MempoolId_t{0, 0} || id == pool_id)) {
      for (auto& [stream, pools] : owner->pools) {
        find_segments(pools->small, into);
        find_segments(pools->large, into);
      }
    }
  }
}

void DeviceCache::release_cached(Lock& lock, MempoolId_t id) {
  std::vector<Block*> segments;
  if (id == MempoolId_t{0, 0}) {
    for_each_pool([&](BlockPool& pool) { find_segments(pool, segments); });
  }
  find_freeable_segments(id, segments);
  std::vector<void*> addresses;
  for (Block* segment : segments) {
    addresses.push_back(detach_segment(segment));
  }
  erase_freed_pools();
  lock.unlock();
  device_free(addresses);
  lock.lock();
}

// Not of private pools: a graph's replay may use them on any stream.
void DeviceCache::release_unused(Lock& lock) {
  std::vector<Block*> segments;
  for_each_pool([&](BlockPool& pool) {
    StreamProgress progress;
    if (stream_progress(pool.stream(), progress)) {
      const size_t before = segments.size();
      find_segments(pool, segments);
      segments.erase(std::remove_if(segments.begin() + before, segments.end(),
                                    [&](Block* b) { return b->count > progress.completed; }),
                     segments.end());
    }
  });
  std::vector<void*> addresses;
  for (Block* segment : segments) {
    addresses.push_back(detach_segment(segment));
  }
  lock.unlock();
  device_free_unused(device_, addresses);
  lock.lock();
}

// garbage_collection_threshold: beyond that part of the allowed memory, the
// segments that have been free for longest go before more is reserved.
void DeviceCache::collect_garbage(Lock& lock) {
  const double threshold = AcceleratorAllocatorConfig::garbage_collection_threshold();
  if (threshold <= 0) {
    return;
  }
  const size_t limit = static_cast<size_t>(threshold * static_cast<double>(allowed()));
  const size_t reserved = usage_locked().reserved;
  if (reserved <= limit) {
    return;
  }
  std::vector<Block*> segments;
  for (auto& [stream, pools] : pools_) {
    find_segments(pools->large, segments);
  }
  const auto age = [](const Block* b) { return b->pool->clock() - b->free_since; };
  std::sort(segments.begin(), segments.end(), [&](Block* a, Block* b) { return age(a) > age(b); });
  std::vector<void*> addresses;
  size_t released = 0;
  for (Block* segment : segments) {
    if (reserved - released <= limit) {
      break;
    }
    released += segment->size;
    addresses.push_back(detach_segment(segment));
  }
  if (addresses.empty()) {
    return;
  }
  lock.unlock();
  device_free(addresses);
  lock.lock();
}

void DeviceCache::empty_cache(MempoolId_t id) {
  std::lock_guard<std::mutex> release_guard(release_mutex_);
  Lock lock(mutex_);
  wait_for_uses(lock);
  release_cached(lock, id);
}

void DeviceCache::set_caching(bool enabled) {
  Lock lock(mutex_);
  caching_ = enabled;
  if (!enabled) {
    release_unused(lock);
  }
}

bool DeviceCache::is_caching() {
  Lock lock(mutex_);
  return caching_;
}

void DeviceCache::set_memory_fraction(double fraction) {
  Lock lock(mutex_);
  fraction_ = fraction;
}

double DeviceCache::memory_fraction() {
  Lock lock(mutex_);
  return fraction_;
}

AllocatorStats DeviceCache::stats() {
  Lock lock(mutex_);
  return stats_;
}

DeviceCache::Usage DeviceCache::usage() {
  Lock lock(mutex_);
  return usage_locked();
}

void DeviceCache::reset_accumulated_stats() {
  Lock lock(mutex_);
  stats_.reset_accumulated();
}

void DeviceCache::reset_peak_stats() {
  Lock lock(mutex_);
  stats_.reset_peak();
}

void DeviceCache::snapshot(std::vector<c10::CachingDeviceAllocator::SegmentInfo>& into) {
  const size_t begin = into.size();
  Lock lock(mutex_);
  if (history_.enabled()) {
    history_.add(TraceEntry::SNAPSHOT, device_, 0, usage_locked().reserved, nullptr, {0, 0},
                 nullptr);
  }
  for (const Block* segment : segments_) {
    c10::CachingDeviceAllocator::SegmentInfo info;
    info.device = device_;
    info.address = reinterpret_cast<size_t>(segment->address);
    info.stream = segment->pool->stream();
    info.is_large = !segment->pool->small();
    if (const PrivatePool* owner = segment->pool->owner()) {
      info.owner_private_pool_id = owner->id;
    }
    for (const Block* b = segment; b != nullptr; b = b->next) {
      c10::CachingDeviceAllocator::BlockInfo block;
      block.size = b->size;
      block.allocated = b->state == Block::State::Live;
      block.active = block.allocated || b->state == Block::State::Pending;
      if (block.active) {
        block.requested_size = b->requested;
        block.context_when_allocated = b->context;
        info.active_size += b->size;
        info.requested_size += b->requested;
      }
      if (block.allocated) {
        info.allocated_size += b->size;
      }
      if (b->state == Block::State::Free) {
        block.gc_counter = static_cast<int32_t>(b->pool->clock() - b->free_since);
      }
      info.total_size += b->size;
      info.blocks.push_back(std::move(block));
    }
    into.push_back(std::move(info));
  }
  std::sort(into.begin() + begin, into.end(),
            [](const auto& a, const auto& b) { return a.address < b.address; });
}

} // namespace c10::openreg
