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

// Fraction of the device's memory that this process may reserve, 0 to 1.
OPENREG_API void set_memory_fraction(double fraction, DeviceIndex device);
OPENREG_API double get_memory_fraction(DeviceIndex device);

// Segments with their blocks, for memory_summary and snapshots.
OPENREG_API std::vector<c10::CachingDeviceAllocator::SegmentInfo> snapshot();

} // namespace c10::openreg::CachingAllocator
