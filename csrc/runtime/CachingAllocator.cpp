#include "runtime/CachingAllocator.h"

#include <c10/core/impl/GPUTrace.h>

#include <atomic>
#include <memory>
#include <mutex>
#include <unordered_map>
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

// Copy-on-write keeps the context of a storage's DataPtr and expects it to be the
// address (c10/core/impl/COW.cpp). A storage that is cloned lazily gets such a
// context, and its block is found by the address from then on.
std::mutex lazily_cloned_mutex;
std::unordered_map<const void*, Block*>& lazily_cloned() {
  static auto& blocks = *new std::unordered_map<const void*, Block*>();
  return blocks;
}

void delete_lazily_cloned(void* address) {
  if (C10_UNLIKELY(in_forked_child())) {
    return;
  }
  Block* block = nullptr;
  {
    std::lock_guard lock(lazily_cloned_mutex);
    const auto found = lazily_cloned().find(address);
    block = found->second;
    lazily_cloned().erase(found);
  }
  delete_block(block);
}

void make_lazily_clonable(DataPtr& ptr) {
  {
    std::lock_guard lock(lazily_cloned_mutex);
    lazily_cloned()[ptr.get()] = static_cast<Block*>(ptr.get_context());
  }
  const Device device = ptr.device();
  void* address = ptr.get();
  ptr.release_context();
  ptr = DataPtr(address, address, &delete_lazily_cloned, device);
}

// The block that a DataPtr owns, or null.
Block* block_of(const DataPtr& ptr) {
  if (ptr.get_deleter() == &delete_block) {
    return static_cast<Block*>(ptr.get_context());
  }
  if (ptr.get_deleter() == &delete_lazily_cloned) {
    std::lock_guard lock(lazily_cloned_mutex);
    return lazily_cloned().at(ptr.get_context());
  }
  return nullptr;
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

  // Asked of a storage that is about to be cloned lazily, whose DataPtr this is.
  bool is_simple_data_ptr(const DataPtr& ptr) const override {
    if (ptr.get_deleter() == &delete_block) {
      make_lazily_clonable(const_cast<DataPtr&>(ptr));
    }
    return ptr.get() == ptr.get_context();
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
    if (used) {
      for (auto& cache : caches()) {
        cache->empty_cache(mempool_id);
      }
    }
  }

  void recordStream(const DataPtr& ptr, c10::Stream stream) override {
    record_stream(ptr, OpenRegStream(stream));
  }

  c10::CachingDeviceAllocator::DeviceStats getDeviceStats(DeviceIndex device) override {
    c10::CachingDeviceAllocator::DeviceStats stats = cache(device).stats().device_stats();
    cache(device).add_pool_stats(stats);
    return stats;
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
  if (Context context = gather_context(RecordContext::STATE)) {
    block->pool->cache().set_context(block, std::move(context));
  }
  report_allocation(block, device, block->pool->cache().usage());
  return data_ptr(block, device);
}

bool owns(const DataPtr& ptr) {
  return block_of(ptr) != nullptr;
}

void record_stream(const DataPtr& ptr, OpenRegStream stream) {
  // Memory of another origin is its owner's business.
  if (Block* block = block_of(ptr)) {
    block->pool->cache().record_stream(block, stream.handle());
  }
}

MempoolId_t new_pool_id(bool is_users) {
  static std::atomic<CaptureId_t> last{0};
  const CaptureId_t number = ++last;
  return is_users ? MempoolId_t{0, number} : MempoolId_t{number, 0};
}

void retain_pool(DeviceIndex device, MempoolId_t id) {
  cache(device).retain_pool(id);
}

void release_pool(DeviceIndex device, MempoolId_t id) {
  cache(device).release_pool(id);
}

void begin_allocate_to_pool(DeviceIndex device,
                            MempoolId_t id,
                            std::function<bool(orStream_t)> filter) {
  cache(device).begin_allocate_to_pool(id, std::move(filter));
}

void end_allocate_to_pool(DeviceIndex device, MempoolId_t id) {
  cache(device).end_allocate_to_pool(id);
}

int pool_use_count(DeviceIndex device, MempoolId_t id) {
  return cache(device).pool_use_count(id);
}

void set_caching(bool enabled) {
  check_not_forked();
  for (auto& cache : caches()) {
    cache->set_caching(enabled);
  }
}

bool is_caching() {
  return device_count() == 0 || cache(0).is_caching();
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

void configure_history(const MemoryHistoryOptions& options, bool clear) {
  check_not_forked();
  for (auto& cache : caches()) {
    cache->configure_history(options, clear);
  }
}

std::vector<std::vector<TraceEntry>> memory_traces() {
  check_not_forked();
  std::vector<std::vector<TraceEntry>> traces;
  if (used) {
    const auto to_unix = memory_history_clock();
    for (auto& cache : caches()) {
      traces.push_back(cache->history());
      for (TraceEntry& entry : traces.back()) {
        entry.time_.t_ = to_unix(entry.time_.approx_t_);
      }
    }
  }
  return traces;
}

Context allocation_context(const void* address) {
  check_not_forked();
  if (used) {
    for (auto& cache : caches()) {
      if (Context context = cache->allocation_context(address)) {
        return context;
      }
    }
  }
  return nullptr;
}

} // namespace c10::openreg::CachingAllocator
