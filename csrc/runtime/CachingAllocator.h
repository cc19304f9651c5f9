#pragma once

// The caching device allocator: what at::empty calls, and the interface of
// torch.accelerator's memory functions (c10::DeviceAllocator).
//
// Note [Issue order and execution order]
// A host thread frees a tensor while the work that reads it is still queued,
// and may reuse the memory at once for work it queues later on the same stream:
// the stream is in order, so the reuse comes after the read. That is *issue
// order*. A kernel that allocates while it runs (temporaries, outputs whose size
// depends on data) is ahead of all queued work, and must not be given memory
// that queued work still reads. That is *execution order*. So each free block
// carries the count of work issued on its stream when it was freed; an
// allocation in execution order takes only blocks whose count has completed. A
// block freed by a running kernel has count 0: whoever takes it comes later.

#include <c10/core/CachingDeviceAllocator.h>

#include <functional>

#include "runtime/MemoryHistory.h"
#include "runtime/Stream.h"

namespace c10::openreg::CachingAllocator {

enum class Order { Issue, Execution };

// The one allocator, registered for PrivateUse1.
OPENREG_API c10::DeviceAllocator* get();

// Memory for work on `stream`, at a device address, freed by the DataPtr.
// Raises c10::OutOfMemoryError after freeing what is cached and one retry. A
// size of 0 gives a null DataPtr on the device.
OPENREG_API DataPtr allocate(size_t nbytes, DeviceIndex device, orStream_t stream, Order order);

// For memory that a kernel allocates while it runs: the opaque block and its
// device address. The kernel frees it with free_in_kernel, or hands it over to
// the host with to_data_ptr, which then frees it as issue order needs.
struct KernelMemory {
  void* block;
  void* address;
};
OPENREG_API KernelMemory allocate_in_kernel(size_t nbytes, DeviceIndex device, orStream_t stream);
OPENREG_API void free_in_kernel(void* block) noexcept;
OPENREG_API DataPtr to_data_ptr(KernelMemory memory, DeviceIndex device);

// Whether a DataPtr is one of ours, that is, owns a block of this allocator.
OPENREG_API bool owns(const DataPtr& ptr);

// Keeps a freed block from reuse until the work now queued on `stream` is done.
OPENREG_API void record_stream(const DataPtr& ptr, OpenRegStream stream);

// Private pools: memory of their own for graphs and for c10's memory pools. A
// pool begins with its first user; users share it by its id. Its segments serve
// no other allocation, and go back to the device only once the last user has
// released it and its tensors are freed.
//
// A new id: {n, 0}, or {0, n} for one that the user asked for.
OPENREG_API MempoolId_t new_pool_id(bool is_users);
OPENREG_API void retain_pool(DeviceIndex device, MempoolId_t id);
OPENREG_API void release_pool(DeviceIndex device, MempoolId_t id);
// Until the end, what is allocated in issue order on a stream that `filter`
// accepts comes from the pool, whose user the caller becomes. Of several that
// accept, the last one begun counts. The filter must not allocate.
OPENREG_API void
begin_allocate_to_pool(DeviceIndex device, MempoolId_t id, std::function<bool(orStream_t)> filter);
OPENREG_API void end_allocate_to_pool(DeviceIndex device, MempoolId_t id);
// How many users the pool has; 0 if there is none of this id.
OPENREG_API int pool_use_count(DeviceIndex device, MempoolId_t id);

// Without caching, memory goes back to the device once it is free and the work
// that used it is done. On by default, and a setting of all devices.
OPENREG_API void set_caching(bool enabled);
OPENREG_API bool is_caching();

// Fraction of the device's memory that this process may reserve, 0 to 1.
OPENREG_API void set_memory_fraction(double fraction, DeviceIndex device);
OPENREG_API double get_memory_fraction(DeviceIndex device);

// Segments with their blocks, for memory_summary and snapshots.
OPENREG_API std::vector<c10::CachingDeviceAllocator::SegmentInfo> snapshot();

// Of all devices; called by record_memory_history.
void configure_history(const MemoryHistoryOptions& options, bool clear);
// A trace a device, oldest entries first; times are Unix nanoseconds.
OPENREG_API std::vector<std::vector<TraceEntry>> memory_traces();
// The stack from which the live memory that begins at `address` was allocated;
// nullptr if there is none or it was not recorded.
OPENREG_API Context allocation_context(const void* address);

} // namespace c10::openreg::CachingAllocator
