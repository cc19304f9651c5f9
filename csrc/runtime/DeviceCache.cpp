#include "runtime/DeviceCache.h"

#include <c10/core/AllocatorConfig.h>
#include <c10/util/llvmMathExtras.h>

#include <algorithm>

#include "runtime/Capture.h"
#include "runtime/DeviceMemory.h"
#include "runtime/OutOfMemory.h"
#include "runtime/StreamPoint.h"

namespace c10::openreg {

using c10::CachingAllocator::AcceleratorAllocatorConfig;

static size_t round_up(size_t size, size_t multiple) {
  return (size + multiple - 1) / multiple * multiple;
}

// roundup_power2_divisions: sizes are rounded to one of so many steps between
// two powers of two, so that sizes which vary a little share blocks.
static size_t round_size(size_t nbytes) {
  constexpr size_t granularity = BlockPool::kGranularity;
  if (nbytes > 2 * granularity) {
    const size_t divisions = AcceleratorAllocatorConfig::roundup_power2_divisions(nbytes);
    if (divisions > 1 && nbytes > granularity * divisions) {
      const size_t floor = c10::llvm::PowerOf2Floor(nbytes);
      const size_t step = std::max<size_t>(floor / divisions, granularity);
      return round_up(nbytes, step);
    }
  }
  return nbytes == 0 ? granularity : round_up(nbytes, granularity);
}

DeviceCache::DeviceCache(DeviceIndex device)
    : device_(device), capacity_(device_capacity(device)) {}

DeviceCache::Usage DeviceCache::usage_locked() const {
  return {static_cast<size_t>(stats_.all.allocated_bytes.current()),
          static_cast<size_t>(stats_.all.reserved_bytes.current())};
}

BlockPool& DeviceCache::pool(orStream_t stream, bool small) {
  if (C10_UNLIKELY(stream != last_stream_ || last_pools_ == nullptr)) {
    last_pools_ = &stream_pools(nullptr, stream);
    last_stream_ = stream;
  }
  return small ? last_pools_->small : last_pools_->large;
}

Block* DeviceCache::allocate(size_t nbytes, orStream_t stream, Order order, Usage& usage) {
  // Beyond any device, and rounding must not overflow.
  TORCH_CHECK_WITH(OutOfMemoryError, nbytes < (size_t{1} << 60),
                   "openreg out of memory. Tried to allocate more than 1EB memory.");
  const size_t size = round_size(nbytes);
  uint64_t completed = std::numeric_limits<uint64_t>::max();
  if (order == Order::Execution) {
    StreamProgress progress;
    completed = stream_progress(stream, progress) ? progress.completed : 0;
  }

  Context context = gather_context(RecordContext::STATE);

  Lock lock(mutex_);
  if (C10_UNLIKELY(pending_ != 0)) {
    reclaim_pending();
  }
  if (C10_UNLIKELY(!caching_)) {
    release_unused(lock);
  }
  const bool small = size <= BlockPool::kMaxSmall;
  PrivatePool* owner =
      C10_UNLIKELY(!routes_.empty()) && order == Order::Issue ? routed(stream) : nullptr;
  BlockPool& from =
      C10_LIKELY(owner == nullptr) ? pool(stream, small) : stream_pools(owner, stream).of(small);
  Block* block = from.take(size, completed);
  if (C10_UNLIKELY(block == nullptr)) {
    block = allocate_slow(lock, from, size, order, completed);
    if (block == nullptr) {
      raise_out_of_memory(lock, nbytes);
    }
  }
  block->requested = nbytes;
  for (PoolStats* stats : {&stats_.all, &stats_.of(from.small())}) {
    stats->allocation.increase(1);
    stats->allocated_bytes.increase(static_cast<int64_t>(block->size));
    stats->requested_bytes.increase(static_cast<int64_t>(nbytes));
    stats->active.increase(1);
    stats->active_bytes.increase(static_cast<int64_t>(block->size));
  }
  if (C10_UNLIKELY(size >= AcceleratorAllocatorConfig::max_split_size())) {
    stats_.oversize_allocations.increase(1);
  }
  if (C10_UNLIKELY(history_.enabled() || context != nullptr)) {
    block->context = context;
    record(TraceEntry::ALLOC, block, nbytes, std::move(context));
  }
  usage = usage_locked();
  return block;
}

DeviceCache::Usage DeviceCache::free(Block* block, bool in_kernel) {
  const orStream_t stream = block->pool->stream();
  const uint64_t count = in_kernel ? 0 : issued_count(stream);
  Context context = in_kernel ? nullptr : gather_context(RecordContext::ALL);

  Lock lock(mutex_);
  block->count = count;
  for (PoolStats* stats : {&stats_.all, &stats_.of(block->pool->small())}) {
    stats->allocation.decrease(1);
    stats->allocated_bytes.decrease(static_cast<int64_t>(block->size));
    stats->requested_bytes.decrease(static_cast<int64_t>(block->requested));
  }
  if (C10_UNLIKELY(block->size >= AcceleratorAllocatorConfig::max_split_size())) {
    stats_.oversize_allocations.decrease(1);
  }
  const Usage usage = usage_locked();
  if (C10_UNLIKELY(history_.enabled())) {
    record(TraceEntry::FREE_REQUESTED, block, block->requested,
           context != nullptr ? std::move(context) : block->context);
  }

  if (in_kernel) {
    // Only by the kernel that is now done with it; see borrow.
    block->used_on.clear();
  } else if (C10_UNLIKELY(!block->used_on.empty())) {
    block->state = Block::State::Pending;
    if (PrivatePool* owner = block->pool->owner(); owner != nullptr && is_routed(owner)) {
      // Captured work has no point on its stream to wait for: see
      // Note [Memory of graphs].
      owner->deferred.push_back(block);
    } else {
      free_after_uses(block);
    }
    return usage;
  }
  make_free(block);
  if (C10_UNLIKELY(!caching_)) {
    release_unused(lock);
  }
  return usage;
}

// Frees a block once the streams that it was recorded on are done with it.
void DeviceCache::free_after_uses(Block* block) {
  for (orStream_t other : block->used_on) {
    const StreamPoint point = StreamPoint::now(other);
    if (point.reached()) {
      continue;
    }
    auto uses = std::find_if(uses_.begin(), uses_.end(), [other](const StreamUses& candidate) {
      return candidate.stream == other;
    });
    if (uses == uses_.end()) {
      uses = uses_.insert(uses_.end(), StreamUses{other, false, {}});
    }
    uses->waiting.emplace_back(point.count, block);
    block->uses_left++;
  }
  block->used_on.clear();
  if (block->uses_left != 0) {
    pending_++;
  } else {
    make_free(block);
  }
}

void DeviceCache::make_free(Block* block) {
  for (PoolStats* stats : {&stats_.all, &stats_.of(block->pool->small())}) {
    stats->active.decrease(1);
    stats->active_bytes.decrease(static_cast<int64_t>(block->size));
  }
  if (C10_UNLIKELY(history_.enabled() || block->context != nullptr)) {
    record(TraceEntry::FREE_COMPLETED, block, block->requested, std::move(block->context));
    block->context = nullptr;
  }
  block->pool->put(block);
}

void DeviceCache::record_stream(Block* block, orStream_t stream) {
  Lock lock(mutex_);
  auto& used_on = block->used_on;
  if (stream != block->pool->stream() &&
      std::find(used_on.begin(), used_on.end(), stream) == used_on.end()) {
    used_on.push_back(stream);
  }
}

void DeviceCache::reclaim(StreamUses& uses, uint64_t completed) {
  // Nearly in order: two threads that free at once may be the other way round.
  size_t kept = 0;
  for (size_t i = 0; i < uses.waiting.size(); ++i) {
    auto [count, block] = uses.waiting[i];
    if (count > completed) {
      uses.waiting[kept++] = uses.waiting[i];
    } else if (--block->uses_left == 0) {
      pending_--;
      make_free(block);
    }
  }
  uses.waiting.resize(kept);
}

void DeviceCache::reclaim_pending() {
  for (StreamUses& uses : uses_) {
    if (uses.waiting.empty() || uses.destroyed) {
      continue;
    }
    StreamProgress progress;
    if (!stream_progress(uses.stream, progress)) {
      // What was queued may still run; known to be done after a wait only.
      uses.destroyed = true;
    } else if (progress.completed >= uses.waiting.front().first) {
      reclaim(uses, progress.completed);
    }
  }
}

void DeviceCache::wait_for_uses(Lock& lock) {
  reclaim_pending();
  if (pending_ == 0) {
    return;
  }
  stats_.num_sync_all_streams++;
  std::vector<orStream_t> streams;
  std::vector<orStream_t> destroyed;
  for (const StreamUses& uses : uses_) {
    if (!uses.waiting.empty()) {
      (uses.destroyed ? destroyed : streams).push_back(uses.stream);
    }
  }

  // Raises a failed kernel's error, as every synchronisation does.
  lock.unlock();
  for (orStream_t stream : streams) {
    const orError_t error = orStreamSynchronize(stream);
    if (error != orErrorInvalidResourceHandle) {
      OPENREG_CHECK(error);
    }
  }
  if (!destroyed.empty()) {
    for (DeviceIndex device = 0; device < device_count(); ++device) {
      device_synchronize(device);
    }
  }
  lock.lock();

  reclaim_pending();
  for (orStream_t stream : destroyed) {
    for (StreamUses& uses : uses_) {
      if (uses.stream == stream) {
        reclaim(uses, std::numeric_limits<uint64_t>::max());
      }
    }
  }
  std::erase_if(uses_,
                [](const StreamUses& uses) { return uses.destroyed && uses.waiting.empty(); });
}

Block* DeviceCache::allocate_slow(
    Lock& lock, BlockPool& pool, size_t size, Order order, uint64_t completed) {
  if (pool.flush()) {
    if (Block* block = pool.take(size, completed)) {
      return block;
    }
  }
  const bool may_wait = order == Order::Issue && !is_capturing(pool.stream());
  if (may_wait && routes_.empty()) {
    collect_garbage(lock);
  }
  if (Block* block = allocate_segment(lock, pool, size)) {
    return block;
  }

  stats_.num_alloc_retries++;
  if (!may_wait) {
    // A running kernel cannot wait for the device, a capture must not.
    release_unused(lock);
    if (Block* block = allocate_smallest_segment(lock, pool, size)) {
      return block;
    }
    return order == Order::Execution ? borrow(pool.stream(), pool.small(), size) : nullptr;
  }
  lock.unlock();
  std::lock_guard<std::mutex> release_guard(release_mutex_);
  lock.lock();
  wait_for_uses(lock);
  release_cached(lock, {0, 0});
  if (Block* block = pool.take(size, completed)) {
    return block;
  }
  return allocate_smallest_segment(lock, pool, size);
}

// Memory of another stream whose work with it is done. It stays that stream's,
// so the borrower is recorded as if it had been given the memory by a tensor.
Block* DeviceCache::borrow(orStream_t stream, bool small, size_t size) {
  for (auto& [owner, pools] : pools_) {
    StreamProgress progress;
    if (!stream_progress(owner, progress)) {
      continue;
    }
    BlockPool& pool = small ? pools->small : pools->large;
    if (Block* block = pool.take(size, progress.completed)) {
      if (owner != stream) {
        block->used_on.push_back(stream);
      }
      return block;
    }
  }
  return nullptr;
}

void DeviceCache::raise_out_of_memory(Lock& lock, size_t nbytes) {
  stats_.num_ooms++;
  const Usage usage = usage_locked();
  const size_t allowed = this->allowed();
  lock.unlock();
  const size_t free = device_memory_info(device_).first;
  if (Context context = gather_context(RecordContext::STATE); history_.enabled()) {
    lock.lock();
    history_.add(TraceEntry::OOM, device_, free, nbytes, nullptr, {0, 0}, std::move(context));
    lock.unlock();
  }
  openreg::raise_out_of_memory({.device = device_,
                                .tried = nbytes,
                                .total = capacity_,
                                .free = free,
                                .allowed = allowed,
                                .allocated = usage.allocated,
                                .reserved = usage.reserved});
}

} // namespace c10::openreg
