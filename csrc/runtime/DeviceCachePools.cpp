// DeviceCache's private pools; see Note [Memory of graphs].

#include <algorithm>

#include "runtime/DeviceCache.h"

namespace c10::openreg {

StreamPools& DeviceCache::stream_pools(PrivatePool* owner, orStream_t stream) {
  std::unique_ptr<StreamPools>& pools = (owner != nullptr ? owner->pools : pools_)[stream];
  if (!pools) {
    pools.reset(new StreamPools{BlockPool(*this, owner, stream, /*small=*/true, stats_, arena_),
                                BlockPool(*this, owner, stream, /*small=*/false, stats_, arena_)});
  }
  return *pools;
}

PrivatePool* DeviceCache::routed(orStream_t stream) const {
  const auto route = std::find_if(routes_.rbegin(), routes_.rend(),
                                  [stream](const Route& r) { return r.filter(stream); });
  return route == routes_.rend() ? nullptr : route->pool;
}

bool DeviceCache::is_routed(const PrivatePool* pool) const {
  return std::any_of(routes_.begin(), routes_.end(),
                     [pool](const Route& route) { return route.pool == pool; });
}

PrivatePool& DeviceCache::retain_locked(MempoolId_t id) {
  TORCH_CHECK_VALUE((id != MempoolId_t{0, 0}), "the id of a private pool must not be (0, 0)");
  std::unique_ptr<PrivatePool>& pool = private_pools_[id];
  if (!pool) {
    pool = std::make_unique<PrivatePool>(id);
  }
  pool->users++;
  return *pool;
}

void DeviceCache::retain_pool(MempoolId_t id) {
  Lock lock(mutex_);
  retain_locked(id);
}

void DeviceCache::release_pool(MempoolId_t id) {
  Lock lock(mutex_);
  const auto found = private_pools_.find(id);
  TORCH_CHECK(found != private_pools_.end() && found->second->users > 0, "the private pool (",
              id.first, ", ", id.second, ") has no user that could release it");
  found->second->users--;
  erase_freed_pools();
}

void DeviceCache::begin_allocate_to_pool(MempoolId_t id, std::function<bool(orStream_t)> filter) {
  Lock lock(mutex_);
  routes_.push_back({&retain_locked(id), std::move(filter)});
}

void DeviceCache::end_allocate_to_pool(MempoolId_t id) {
  Lock lock(mutex_);
  const auto route = std::find_if(routes_.rbegin(), routes_.rend(),
                                  [id](const Route& r) { return r.pool->id == id; });
  TORCH_CHECK(route != routes_.rend(), "nobody allocates to the private pool (", id.first, ", ",
              id.second, ")");
  PrivatePool* pool = route->pool;
  routes_.erase(std::next(route).base());
  if (is_routed(pool)) {
    return;
  }
  for (Block* block : pool->deferred) {
    free_after_uses(block);
  }
  pool->deferred.clear();
}

int DeviceCache::pool_use_count(MempoolId_t id) {
  Lock lock(mutex_);
  const auto found = private_pools_.find(id);
  return found == private_pools_.end() ? 0 : found->second->users;
}

// Pools that nobody uses and that have no memory. A tensor's block names its
// pool, so one with segments stays.
void DeviceCache::erase_freed_pools() {
  std::erase_if(private_pools_, [](const auto& entry) {
    return entry.second->users == 0 && entry.second->segments == 0;
  });
}

void DeviceCache::add_pool_stats(c10::CachingDeviceAllocator::DeviceStats& stats) {
  Lock lock(mutex_);
  for (const auto& [id, pool] : private_pools_) {
    stats.reserved_bytes_by_private_pools[id][static_cast<size_t>(
        c10::CachingAllocator::StatType::AGGREGATE)] = pool->reserved_bytes.stat();
  }
}

} // namespace c10::openreg
