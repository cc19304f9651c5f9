#pragma once

// The statistics of one device's allocator, in the form that is cheap to keep;
// converted to c10's when somebody asks.

#include <c10/core/CachingDeviceAllocator.h>

#include <algorithm>
#include <cstdint>

namespace c10::openreg {

// c10's Stat without `freed`, which follows from the others.
class Counter {
 public:
  void increase(int64_t amount) {
    current_ += amount;
    allocated_ += amount;
    peak_ = std::max(peak_, current_);
  }
  void decrease(int64_t amount) {
    current_ -= amount;
  }

  int64_t current() const {
    return current_;
  }

  void reset_peak() {
    peak_ = current_;
  }
  void reset_accumulated() {
    allocated_ = 0;
    current_at_reset_ = current_;
  }

  c10::CachingAllocator::Stat stat() const {
    c10::CachingAllocator::Stat stat;
    stat.current = current_;
    stat.peak = peak_;
    stat.allocated = allocated_;
    stat.freed = allocated_ + current_at_reset_ - current_;
    return stat;
  }

 private:
  int64_t current_ = 0;
  int64_t peak_ = 0;
  int64_t allocated_ = 0;
  int64_t current_at_reset_ = 0;
};

// What is kept for the small pools, for the large pools and for both together.
// Names as in c10::CachingDeviceAllocator::DeviceStats.
struct PoolStats {
  Counter allocation;
  Counter allocated_bytes;
  Counter requested_bytes;
  Counter active;
  Counter active_bytes;
  Counter inactive_split;
  Counter inactive_split_bytes;
  Counter segment;
  Counter reserved_bytes;

  template <typename Function>
  void for_each(Function function) {
    for (Counter* counter :
         {&allocation, &allocated_bytes, &requested_bytes, &active, &active_bytes, &inactive_split,
          &inactive_split_bytes, &segment, &reserved_bytes}) {
      function(*counter);
    }
  }
};

struct AllocatorStats {
  PoolStats all;
  PoolStats small_pool;
  PoolStats large_pool;

  int64_t num_alloc_retries = 0;
  int64_t num_ooms = 0;
  int64_t num_sync_all_streams = 0;
  int64_t num_device_alloc = 0;
  int64_t num_device_free = 0;
  Counter oversize_allocations;
  Counter oversize_segments;

  PoolStats& of(bool small) {
    return small ? small_pool : large_pool;
  }

  c10::CachingDeviceAllocator::DeviceStats device_stats() const;
  void reset_accumulated();
  void reset_peak();
};

} // namespace c10::openreg
