#include "Memory.h"

#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "Capture.h"
#include "Device.h"
#include "Stream.h"
#include "Trace.h"

ptrdiff_t orBackingOffset = 0;
uintptr_t orDeviceRangeBegin = 0;
uintptr_t orDeviceRangeEnd = 0;

namespace openreg {
namespace {

constexpr size_t kGranule = 512;
constexpr size_t kPage = 4096;
constexpr size_t kHugePage = size_t(2) << 20;

size_t deviceStride = 0;

size_t roundUp(size_t value, size_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

// Address space only. Aligned, so that device addresses and their bytes agree
// in all bits that huge pages and kernels look at.
char* reserve(size_t size, int protection) {
  size_t padded = size + kHugePage;
  void* raw = mmap(nullptr, padded, protection, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (raw == MAP_FAILED) {
    return nullptr;
  }
  auto begin = reinterpret_cast<uintptr_t>(raw);
  uintptr_t aligned = roundUp(begin, kHugePage);
  if (aligned != begin) {
    munmap(raw, aligned - begin);
  }
  if (aligned + size != begin + padded) {
    munmap(reinterpret_cast<void*>(aligned + size), begin + padded - aligned - size);
  }
  return reinterpret_cast<char*>(aligned);
}

void* backingOf(uintptr_t address) {
  return orBacking(reinterpret_cast<void*>(address));
}

// Gives whole pages back to the system. They read as zero when used again.
void releasePages(uintptr_t begin, uintptr_t end) {
  if (begin < end) {
    madvise(backingOf(begin), end - begin, MADV_DONTNEED);
  }
}

// As reserveWindows leaves the backing.
void adviseBacking(void* bytes, size_t size) {
  madvise(bytes, size, MADV_DONTDUMP);
  // A child cannot use the device; fork() need not copy its page tables.
  madvise(bytes, size, MADV_DONTFORK);
  if (!config().memory_check) {
    madvise(bytes, size, MADV_HUGEPAGE);
  }
}

int backingProtection() {
  return config().memory_check ? PROT_NONE : PROT_READ | PROT_WRITE;
}

// Puts memory of this process in the place of a file's.
void mapPrivate(uintptr_t begin, size_t size) {
  mmap(backingOf(begin), size, backingProtection(),
       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
  adviseBacking(backingOf(begin), size);
}

} // namespace

orError_t reserveWindows(int device_count) {
  if (device_count == 0 || orDeviceRangeBegin != 0) {
    return orSuccess;
  }
  size_t largest = 0;
  for (const Profile& profile : config().profiles) {
    largest = std::max(largest, profile.memory);
  }
  size_t capacity = roundUp(largest, kHugePage);
  char* window = nullptr;
  char* backing = nullptr;
  // Twice the capacity leaves room for fragmentation; where addresses are
  // limited (ulimit -v), once must do.
  for (size_t factor = 2; factor >= 1 && !backing; --factor) {
    deviceStride = factor * capacity;
    size_t size = deviceStride * device_count;
    window = reserve(size, PROT_NONE);
    if (!window) {
      continue;
    }
    backing = reserve(size, backingProtection());
    if (!backing) {
      munmap(window, size);
    }
  }
  if (!backing) {
    return fail(
        orErrorInitialization,
        "cannot reserve %zu bytes of address space twice for %d devices (%s); "
        "lower OPENREG_DEVICE_MEMORY or OPENREG_PROFILE, now %zu, or raise the limit (ulimit -v, "
        "vm.overcommit_memory)",
        capacity * device_count, device_count, strerror(errno), largest);
  }
  size_t size = deviceStride * device_count;
  madvise(window, size, MADV_DONTDUMP);
  madvise(window, size, MADV_DONTFORK);
  adviseBacking(backing, size);
  orBackingOffset = backing - window;
  orDeviceRangeBegin = reinterpret_cast<uintptr_t>(window);
  orDeviceRangeEnd = orDeviceRangeBegin + size;
  return orSuccess;
}

int deviceOfAddress(const void* pointer) {
  if (!orIsDeviceAddress(pointer)) {
    return -1;
  }
  return static_cast<int>((reinterpret_cast<uintptr_t>(pointer) - orDeviceRangeBegin) /
                          deviceStride);
}

Heap::Heap(int ordinal)
    : ordinal_(ordinal), begin_(orDeviceRangeBegin + deviceStride * ordinal),
      end_(begin_ + deviceStride) {
  ranges_.reset(begin_, end_);
}

orError_t Heap::allocate(const char* caller, size_t size, void** pointer, bool* pending) {
  std::lock_guard<std::mutex> guard(mutex_);
  return allocatePages(caller, size, kGranule, pointer, pending);
}

orError_t Heap::allocateShared(const char* caller, size_t size, int file, void** pointer) {
  std::lock_guard<std::mutex> guard(mutex_);
  bool pending;
  OR_TRY(allocatePages(caller, size, kPage, pointer, &pending));
  auto entry = entries_.find(reinterpret_cast<uintptr_t>(*pointer));
  void* bytes = backingOf(entry->first);
  if (mmap(bytes, entry->second.charged, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, file, 0) ==
      MAP_FAILED) {
    int error = errno;
    used_ -= entry->second.charged;
    remove(entry);
    return fail(orErrorMemoryAllocation, "%s: cannot map %zu bytes of shared memory (%s)", caller,
                size, strerror(error));
  }
  madvise(bytes, entry->second.charged, MADV_DONTDUMP);
  madvise(bytes, entry->second.charged, MADV_DONTFORK);
  entry->second.shared = true;
  return orSuccess;
}

// With the lock.
orError_t Heap::allocatePages(
    const char* caller, size_t size, size_t granule, void** pointer, bool* pending) {
  *pending = false;
  size_t total = capacity();
  size_t charged = size > total ? size : roundUp(size, granule);
  if (charged > total - used_) {
    return fail(orErrorMemoryAllocation,
                "%s: tried to allocate %zu bytes on device %d; %zu of %zu bytes are free", caller,
                size, ordinal_, total - used_, total);
  }
  size_t reserved = charged;
  size_t alignment = charged >= kHugePage ? kHugePage : granule;
  if (config().memory_check) {
    // Whole pages, and one behind them that nobody may touch.
    reserved = roundUp(charged, kPage) + kPage;
    alignment = std::max(alignment, kPage);
  }
  uintptr_t begin = ranges_.allocate(reserved, alignment);
  if (!begin) {
    *pending = pending_ > 0;
    return fail(orErrorMemoryAllocation,
                "%s: tried to allocate %zu bytes on device %d; %zu of %zu bytes are "
                "free, but the largest free range of addresses is %zu bytes",
                caller, size, ordinal_, total - used_, total, ranges_.largestFree());
  }
  if (config().memory_check &&
      mprotect(backingOf(begin), reserved - kPage, PROT_READ | PROT_WRITE)) {
    int error = errno;
    ranges_.free(begin, reserved);
    return fail(orErrorMemoryAllocation,
                "%s: OPENREG_MEMORY_CHECK: mprotect failed (%s); too many allocations "
                "for vm.max_map_count?",
                caller, strerror(error));
  }
  entries_.emplace(begin, Entry{size, reserved, charged, false, false});
  used_ += charged;
  *pointer = reinterpret_cast<void*>(begin);
  return orSuccess;
}

orError_t Heap::lookUp(const char* caller, void* pointer, Entries::iterator* entry) {
  *entry = entries_.find(reinterpret_cast<uintptr_t>(pointer));
  if (*entry == entries_.end() || (*entry)->second.free_pending) {
    return fail(orErrorInvalidDevicePointer,
                "%s: pointer must be the start of an allocation that was not freed yet, "
                "got %p (device %d)",
                caller, pointer, ordinal_);
  }
  return orSuccess;
}

orError_t Heap::free(const char* caller, void* pointer, size_t* size) {
  std::lock_guard<std::mutex> guard(mutex_);
  Entries::iterator entry;
  OR_TRY(lookUp(caller, pointer, &entry));
  *size = entry->second.size;
  used_ -= entry->second.charged;
  remove(entry);
  return orSuccess;
}

orError_t Heap::beginFree(const char* caller, void* pointer, size_t* size) {
  std::lock_guard<std::mutex> guard(mutex_);
  Entries::iterator entry;
  OR_TRY(lookUp(caller, pointer, &entry));
  *size = entry->second.size;
  used_ -= entry->second.charged;
  entry->second.free_pending = true;
  pending_++;
  return orSuccess;
}

void Heap::finishFree(void* pointer) {
  std::lock_guard<std::mutex> guard(mutex_);
  auto entry = entries_.find(reinterpret_cast<uintptr_t>(pointer));
  // orDeviceReset may have been first.
  if (entry != entries_.end() && entry->second.free_pending) {
    remove(entry);
  }
}

void Heap::remove(Entries::iterator entry) {
  uintptr_t begin = entry->first;
  size_t reserved = entry->second.reserved;
  pending_ -= entry->second.free_pending;
  if (entry->second.shared) {
    mapPrivate(begin, entry->second.charged);
  }
  entries_.erase(entry);
  RangeAllocator::Range range = ranges_.free(begin, reserved);
  if (config().memory_check) {
    releasePages(begin, begin + reserved - kPage);
    mprotect(backingOf(begin), reserved - kPage, PROT_NONE);
  } else if (reserved >= kHugePage) {
    // The huge pages that the block touched and that nobody uses any more.
    // Small blocks keep theirs: they are likely to be wanted again.
    uintptr_t from = std::max(roundUp(range.begin, kHugePage), begin / kHugePage * kHugePage);
    uintptr_t to =
        std::min(range.end / kHugePage * kHugePage, roundUp(begin + reserved, kHugePage));
    releasePages(from, to);
  }
}

void Heap::reset() {
  std::lock_guard<std::mutex> guard(mutex_);
  for (const auto& [begin, entry] : entries_) {
    if (entry.shared) {
      mapPrivate(begin, entry.charged);
    }
  }
  entries_.clear();
  used_ = 0;
  pending_ = 0;
  ranges_.reset(begin_, end_);
  releasePages(begin_, end_);
  if (config().memory_check) {
    mprotect(backingOf(begin_), end_ - begin_, PROT_NONE);
  }
}

bool Heap::find(uintptr_t address, Block* block, bool try_only, bool* busy) {
  std::unique_lock<std::mutex> guard(mutex_, std::defer_lock);
  if (!try_only) {
    guard.lock();
  } else if (!guard.try_lock()) {
    *busy = true;
    return false;
  }
  auto entry = entries_.upper_bound(address);
  if (entry == entries_.begin()) {
    return false;
  }
  --entry;
  if (address - entry->first >= entry->second.size) {
    return false;
  }
  *block = {entry->first, entry->second.size, entry->second.free_pending};
  return true;
}

size_t Heap::capacity() const {
  return config().profiles[ordinal_].memory;
}

size_t Heap::available() {
  std::lock_guard<std::mutex> guard(mutex_);
  return capacity() - used_;
}

namespace {

orError_t deviceOfAllocation(const char* caller, void* pointer, Device** device) {
  int ordinal = deviceOfAddress(pointer);
  if (ordinal < 0) {
    return fail(orErrorInvalidDevicePointer,
                "%s: pointer must be device memory, got %p, which is host memory or "
                "nothing",
                caller, pointer);
  }
  *device = &deviceAt(ordinal);
  return orSuccess;
}

orError_t allocate(const char* caller, void** pointer, size_t size, Device* device) {
  if (!pointer) {
    return fail(orErrorInvalidValue, "%s: pointer is NULL", caller);
  }
  OR_TRY(device->checkSticky());
  if (size == 0) {
    *pointer = nullptr;
    return orSuccess;
  }
  bool pending;
  orError_t error = device->heap.allocate(caller, size, pointer, &pending);
  if (OR_UNLIKELY(pending)) {
    OR_TRY(device->waitForAll(caller));
    error = device->heap.allocate(caller, size, pointer, &pending);
  }
  return error;
}

// A stream-ordered free, on its worker.
struct FinishFree {
  Heap* heap;
  void* pointer;
};

const orClosureType finishFreeType = {sizeof(FinishFree),
                                      alignof(FinishFree),
                                      nullptr,
                                      [](void* closure, const orLaunchContext*) {
                                        auto* free = static_cast<FinishFree*>(closure);
                                        free->heap->finishFree(free->pointer);
                                        return orSuccess;
                                      },
                                      nullptr,
                                      nullptr};

} // namespace
} // namespace openreg

using namespace openreg;

orError_t orMalloc(void** pointer, size_t size) {
  OR_TRY(ensureReady());
  Device* device;
  OR_TRY(currentDevice(&device));
  OR_TRY(checkDangerous("orMalloc"));
  OR_TRY(allocate("orMalloc", pointer, size, device));
  if (isTraced(orTraceAlloc) && size) {
    traceMemory(orTraceAlloc, "malloc", device->ordinal, 0, *pointer, size);
  }
  return orSuccess;
}

orError_t orFree(void* pointer) {
  OR_TRY(ensureReady());
  if (!pointer) {
    return orSuccess;
  }
  Device* device;
  OR_TRY(deviceOfAllocation("orFree", pointer, &device));
  OR_TRY(checkDangerous("orFree"));
  OR_TRY(device->waitForAll("orFree"));
  // Traced first: once free, the address may be traced as allocated elsewhere.
  Block block;
  if (isTraced(orTraceFree) && device->heap.find(reinterpret_cast<uintptr_t>(pointer), &block) &&
      !block.free_pending) {
    traceMemory(orTraceFree, "free", device->ordinal, 0, pointer, block.size);
  }
  size_t size;
  return device->heap.free("orFree", pointer, &size);
}

orError_t orMallocAsync(void** pointer, size_t size, orStream_t stream) {
  OR_TRY(ensureReady());
  Stream* on;
  OR_TRY(findStream("orMallocAsync", stream, &on));
  OR_TRY(checkCaptureOf("orMallocAsync", on));
  // The addresses are free now, so they can be handed out now: nothing that was
  // queued before uses them.
  OR_TRY(allocate("orMallocAsync", pointer, size, on->device));
  if (isTraced(orTraceAlloc) && size) {
    traceMemory(orTraceAlloc, "mallocAsync", on->device->ordinal, on->id, *pointer, size);
  }
  return orSuccess;
}

orError_t orFreeAsync(void* pointer, orStream_t stream) {
  OR_TRY(ensureReady());
  Stream* on;
  OR_TRY(findStream("orFreeAsync", stream, &on));
  OR_TRY(checkCaptureOf("orFreeAsync", on));
  if (!pointer) {
    return orSuccess;
  }
  Device* device;
  OR_TRY(deviceOfAllocation("orFreeAsync", pointer, &device));
  size_t size;
  OR_TRY(device->heap.beginFree("orFreeAsync", pointer, &size));
  if (isTraced(orTraceFree)) {
    traceMemory(orTraceFree, "freeAsync", device->ordinal, on->id, pointer, size);
  }
  FinishFree free{&device->heap, pointer};
  Work work;
  work.name = "freeAsync";
  work.type = &finishFreeType;
  return on->submit(work, &free);
}

orError_t orMemGetInfo(size_t* free, size_t* total) {
  OR_TRY(ensureReady());
  Device* device;
  OR_TRY(currentDevice(&device));
  if (!free || !total) {
    return fail(orErrorInvalidValue, "orMemGetInfo: %s is NULL", free ? "total" : "free");
  }
  *free = device->heap.available();
  *total = device->heap.capacity();
  return orSuccess;
}
