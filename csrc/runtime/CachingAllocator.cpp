#include "runtime/CachingAllocator.h"

#include <c10/core/impl/GPUTrace.h>

#include <atomic>
#include <memory>
#include <vector>

#include "runtime/DeviceCache.h"
#include "runtime/DeviceMemory.h"
#include "runtime/Fork.h"

namespace c10::openreg::CachingAllocator {
namespace {

using Caches = std::vector<std::unique_ptr<DeviceCache>>;

// Whether caches() has been called, that is, whether there can be any memory.
std::atomic<bool> used{false};

// Never freed: tensors are freed by any thread, also after static destructors
// have run.
Caches& caches() {
  static auto& all = *[] {
    watch_for_fork();
    auto* caches = new Caches();
    for (DeviceIndex device = 0; device < device_count(); ++device) {
      caches->push_back(std::make_unique<DeviceCache>(device));
    }
    used = true;
    return caches;
  }();
  return all;
}

DeviceCache& cache(DeviceIndex device) {
  check_not_forked();
  auto& all = caches();
  if (C10_UNLIKELY(static_cast<size_t>(device) >= all.size())) {
    check_device(device);
  }
  return *all[device];
}

orStream_t resolve(orStream_t stream, DeviceIndex device) {
  if (C10_UNLIKELY(stream == nullptr)) {
    OPENREG_CHECK(orDeviceGetDefaultStream(&stream, device));
  }
  return stream;
}

// Tells profilers and tracers about a block that a tensor gets or had. (What
// kernels use for themselves they are not told: a worker has no profiler, and a
// tracer would need the GIL.)
void report(const void* address,
            int64_t size,
            DeviceIndex device,
            const DeviceCache::Usage& usage) {
  c10::reportMemoryUsageToProfiler(const_cast<void*>(address), size, usage.allocated,
                                   usage.reserved, Device(DeviceType::PrivateUse1, device));
}

void report_allocation(const Block* block, DeviceIndex device, const DeviceCache::Usage& usage) {
  report(block->address, static_cast<int64_t>(block->size), device, usage);
  if (const auto* tracer = c10::impl::GPUTrace::get_trace()) {
    (*tracer)->trace_gpu_memory_allocation(DeviceType::PrivateUse1,
                                           reinterpret_cast<uintptr_t>(block->address));
  }
}

// The deleter of our DataPtrs. Called by any thread, with or without the GIL, at
// process exit too.
void delete_block(void* context) {
  if (C10_UNLIKELY(in_forked_child())) {
    return;
  }
  auto* block = static_cast<Block*>(context);
  // The block may be another's as soon as it is free.
  const void* address = block->address;
  const auto size = static_cast<int64_t>(block->size);
  DeviceCache& cache = block->pool->cache();
  if (const auto* tracer = c10::impl::GPUTrace::get_trace()) {
    (*tracer)->trace_gpu_memory_deallocation(DeviceType::PrivateUse1,
                                             reinterpret_cast<uintptr_t>(address));
  }
  const DeviceCache::Usage usage = cache.free(block, /*in_kernel=*/false);
  report(address, -size, cache.device(), usage);
}

DataPtr data_ptr(Block* block, DeviceIndex device) {
  return {block->address, block, &delete_block, Device(DeviceType::PrivateUse1, device)};
}

// What PyTorch sees: at::empty through c10::GetAllocator, torch.accelerator's
// memory functions through c10::getDeviceAllocator.
class OpenRegAllocator final : public c10::DeviceAllocator {
 public:
  DataPtr allocate(size_t nbytes) override {
    const DeviceIndex device = current_device();
    return CachingAllocator::allocate(nbytes, device, current_stream_handle(device), Order::Issue);
  }

  // None: a DataPtr's context is not its address, as raw_allocate needs it.
  DeleterFnPtr raw_deleter() const override {
    return nullptr;
  }

  bool is_simple_data_ptr(const DataPtr& ptr) const override {
    return owns(ptr) || ptr.get() == ptr.get_context();
  }

  // For copy-on-write and Allocator::clone: in order with the current stream.
  void copy_data(void* dest, const void* src, size_t count) const override {
    if (count == 0) {
      return;
    }
    orPointerAttributes attributes;
    OPENREG_CHECK(orPointerGetAttributes(&attributes, dest));
    const DeviceIndex device = attributes.type == orMemoryTypeDevice
                                   ? static_cast<DeviceIndex>(attributes.device)
                                   : current_device();
    OPENREG_CHECK(orMemcpyAsync(dest, src, count, orMemcpyDefault, current_stream_handle(device)));
  }

  bool initialized() override {
    return !in_forked_child() && device_count() > 0;
  }

  void emptyCache(MempoolId_t mempool_id) override {
    check_not_forked();
    if (used && mempool_id == MempoolId_t{0, 0}) {
      for (auto& cache : caches()) {
        cache->empty_cache();
      }
    }
  }

  void recordStream(const DataPtr& ptr, c10::Stream stream) override {
    record_stream(ptr, OpenRegStream(stream));
  }

  c10::CachingDeviceAllocator::DeviceStats getDeviceStats(DeviceIndex device) override {
    return cache(device).stats().device_stats();
  }

  void resetAccumulatedStats(DeviceIndex device) override {
    cache(device).reset_accumulated_stats();
  }

  void resetPeakStats(DeviceIndex device) override {
    cache(device).reset_peak_stats();
  }

  std::pair<size_t, size_t> getMemoryInfo(DeviceIndex device) override {
    check_device(device);
    return device_memory_info(device);
  }
};

} // namespace

c10::DeviceAllocator* get() {
  static auto* allocator = new OpenRegAllocator();
  return allocator;
}

REGISTER_ALLOCATOR(c10::DeviceType::PrivateUse1, get())

DataPtr allocate(size_t nbytes, DeviceIndex device, orStream_t stream, Order order) {
  if (nbytes == 0) {
    return {nullptr, Device(DeviceType::PrivateUse1, device)};
  }
  DeviceCache::Usage usage;
  Block* block = cache(device).allocate(nbytes, resolve(stream, device), order, usage);
  report_allocation(block, device, usage);
  return data_ptr(block, device);
}

KernelMemory allocate_in_kernel(size_t nbytes, DeviceIndex device, orStream_t stream) {
  DeviceCache::Usage usage;
  Block* block = cache(device).allocate(nbytes, resolve(stream, device), Order::Execution, usage);
  return {block, block->address};
}

void free_in_kernel(void* block) noexcept {
  if (block != nullptr && !in_forked_child()) {
    auto* freed = static_cast<Block*>(block);
    freed->pool->cache().free(freed, /*in_kernel=*/true);
  }
}

DataPtr to_data_ptr(KernelMemory memory, DeviceIndex device) {
  if (memory.block == nullptr) {
    return {nullptr, Device(DeviceType::PrivateUse1, device)};
  }
  auto* block = static_cast<Block*>(memory.block);
  report_allocation(block, device, block->pool->cache().usage());
  return data_ptr(block, device);
}

bool owns(const DataPtr& ptr) {
  return ptr.get_deleter() == &delete_block && ptr.get_context() != nullptr;
}

void record_stream(const DataPtr& ptr, OpenRegStream stream) {
  // Memory of another origin is its owner's business.
  if (owns(ptr)) {
    auto* block = static_cast<Block*>(ptr.get_context());
    block->pool->cache().record_stream(block, stream.handle());
  }
}

void set_memory_fraction(double fraction, DeviceIndex device) {
  TORCH_CHECK_VALUE(0 <= fraction && fraction <= 1, "the memory fraction must be from 0 to 1, got ",
                    fraction);
  cache(device).set_memory_fraction(fraction);
}

double get_memory_fraction(DeviceIndex device) {
  return cache(device).memory_fraction();
}

std::vector<c10::CachingDeviceAllocator::SegmentInfo> snapshot() {
  check_not_forked();
  std::vector<c10::CachingDeviceAllocator::SegmentInfo> segments;
  if (used) {
    for (auto& cache : caches()) {
      cache->snapshot(segments);
    }
  }
  return segments;
}

} // namespace c10::openreg::CachingAllocator
