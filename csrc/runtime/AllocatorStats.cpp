#include "runtime/AllocatorStats.h"

#include <c10/core/AllocatorConfig.h>

namespace c10::openreg {

c10::CachingDeviceAllocator::DeviceStats AllocatorStats::device_stats() const {
  using c10::CachingAllocator::StatType;
  const auto array = [this](Counter PoolStats::* counter) {
    c10::CachingAllocator::StatArray result;
    const auto set = [&](StatType type, const PoolStats& stats) {
      result[static_cast<size_t>(type)] = (stats.*counter).stat();
    };
    set(StatType::AGGREGATE, all);
    set(StatType::SMALL_POOL, small_pool);
    set(StatType::LARGE_POOL, large_pool);
    return result;
  };

  c10::CachingDeviceAllocator::DeviceStats result;
  result.allocation = array(&PoolStats::allocation);
  result.segment = array(&PoolStats::segment);
  result.active = array(&PoolStats::active);
  result.inactive_split = array(&PoolStats::inactive_split);
  result.allocated_bytes = array(&PoolStats::allocated_bytes);
  result.reserved_bytes = array(&PoolStats::reserved_bytes);
  result.active_bytes = array(&PoolStats::active_bytes);
  result.inactive_split_bytes = array(&PoolStats::inactive_split_bytes);
  result.requested_bytes = array(&PoolStats::requested_bytes);
  result.num_alloc_retries = num_alloc_retries;
  result.num_ooms = num_ooms;
  result.oversize_allocations = oversize_allocations.stat();
  result.oversize_segments = oversize_segments.stat();
  result.num_sync_all_streams = num_sync_all_streams;
  result.num_device_alloc = num_device_alloc;
  result.num_device_free = num_device_free;
  result.max_split_size =
      static_cast<int64_t>(c10::CachingAllocator::AcceleratorAllocatorConfig::max_split_size());
  return result;
}

void AllocatorStats::reset_accumulated() {
  for (PoolStats* stats : {&all, &small_pool, &large_pool}) {
    stats->for_each([](Counter& counter) { counter.reset_accumulated(); });
  }
  oversize_allocations.reset_accumulated();
  oversize_segments.reset_accumulated();
  num_alloc_retries = 0;
  num_ooms = 0;
  num_sync_all_streams = 0;
  num_device_alloc = 0;
  num_device_free = 0;
}

void AllocatorStats::reset_peak() {
  for (PoolStats* stats : {&all, &small_pool, &large_pool}) {
    stats->for_each([](Counter& counter) { counter.reset_peak(); });
  }
  oversize_allocations.reset_peak();
  oversize_segments.reset_peak();
}

} // namespace c10::openreg
