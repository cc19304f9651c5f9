#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <mutex>

#include "Error.h"
#include "RangeAllocator.h"
#include "openreg_kernel.h"

// Note [Memory windows]
// One range of addresses for all devices is reserved and never accessible; a
// second one, the backing, is ordinary memory that the system provides page by
// page when it is touched. Both are divided alike:
//
//   orDeviceRangeBegin | device 0 | device 1 | ... | orDeviceRangeEnd
//   + orBackingOffset  | bytes 0  | bytes 1  | ... |
//
// A device's part is larger than its capacity, so that it runs out of memory,
// never merely out of contiguous addresses, unless badly fragmented.

namespace openreg {

struct Block {
  uintptr_t begin = 0;
  size_t size = 0;           // as requested
  bool free_pending = false; // orFreeAsync was called, its turn has not come
};

// A device's memory. Thread-safe.
class Heap {
 public:
  explicit Heap(int ordinal);

  // *pending: it fails for want of addresses that stream-ordered frees will
  // give back.
  orError_t allocate(const char* caller, size_t size, void** pointer, bool* pending);
  // Whole pages, whose bytes are the file's instead of memory of this process
  // alone, until they are freed.
  orError_t allocateShared(const char* caller, size_t size, int file, void** pointer);
  // Ends a block at once.
  orError_t free(const char* caller, void* pointer, size_t* size);
  // The two halves of a stream-ordered free: the capacity comes back with the
  // first, the addresses with the second.
  orError_t beginFree(const char* caller, void* pointer, size_t* size);
  void finishFree(void* pointer);
  void reset();

  // The block that holds the address. try_only: for signal handlers; gives up
  // rather than wait, then sets *busy.
  bool find(uintptr_t address, Block* block, bool try_only = false, bool* busy = nullptr);

  size_t capacity() const;
  size_t available();

 private:
  struct Entry {
    size_t size;     // requested
    size_t reserved; // addresses taken
    size_t charged;  // counted against the capacity
    bool free_pending;
    bool shared;
  };
  using Entries = std::map<uintptr_t, Entry>;

  orError_t
  allocatePages(const char* caller, size_t size, size_t granule, void** pointer, bool* pending);

  orError_t lookUp(const char* caller, void* pointer, Entries::iterator* entry);
  void remove(Entries::iterator entry);

  const int ordinal_;
  const uintptr_t begin_;
  const uintptr_t end_;
  std::mutex mutex_;
  RangeAllocator ranges_;
  Entries entries_;
  size_t used_ = 0;
  size_t pending_ = 0; // entries with free_pending
};

// Called once, by initialize().
orError_t reserveWindows(int device_count);

// The device whose part of the window holds the address; -1 outside.
int deviceOfAddress(const void* pointer);

} // namespace openreg
