#include "PinnedMemory.h"

#include <sys/mman.h>

#include <map>
#include <mutex>

#include "Capture.h"
#include "Device.h"
#include "Memory.h"
#include "openreg.h"

// "Pinned" is what the copy engines take the word of orHostAlloc for: memory
// that outlives asynchronous copies. An emulated device has no DMA, so nothing
// is locked in memory.

namespace openreg {
namespace {

constexpr size_t kPage = 4096;
constexpr size_t kHugePage = size_t(2) << 20;

struct Registry {
  std::mutex mutex;
  std::map<uintptr_t, PinnedBlock> blocks;
};

Registry& registry() {
  static auto* instance = new Registry();
  return *instance;
}

} // namespace

bool findPinned(const void* pointer, PinnedBlock* block) {
  auto address = reinterpret_cast<uintptr_t>(pointer);
  Registry& all = registry();
  std::lock_guard<std::mutex> guard(all.mutex);
  auto found = all.blocks.upper_bound(address);
  if (found == all.blocks.begin()) {
    return false;
  }
  --found;
  if (address - found->first >= found->second.size) {
    return false;
  }
  *block = found->second;
  return true;
}

} // namespace openreg

using namespace openreg;

orError_t orHostAlloc(void** pointer, size_t size, unsigned flags) {
  OR_TRY(ensureReady());
  Device* device;
  OR_TRY(currentDevice(&device));
  if (!pointer) {
    return fail(orErrorInvalidValue, "orHostAlloc: pointer is NULL");
  }
  if (flags != 0) {
    return fail(orErrorInvalidValue, "orHostAlloc: flags must be 0, got %u", flags);
  }
  OR_TRY(checkDangerous("orHostAlloc"));
  if (size == 0) {
    *pointer = nullptr;
    return orSuccess;
  }
  void* memory = MAP_FAILED;
  if (size <= SIZE_MAX - kPage) {
    memory = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  }
  if (memory == MAP_FAILED) {
    return fail(orErrorHostMemoryAllocation, "orHostAlloc: the system has not %zu bytes of memory",
                size);
  }
  if (size >= kHugePage) {
    madvise(memory, size, MADV_HUGEPAGE);
  }
  auto begin = reinterpret_cast<uintptr_t>(memory);
  Registry& all = registry();
  std::lock_guard<std::mutex> guard(all.mutex);
  all.blocks[begin] = {begin, size, device->ordinal};
  *pointer = memory;
  return orSuccess;
}

orError_t orFreeHost(void* pointer) {
  OR_TRY(ensureReady());
  if (!pointer) {
    return orSuccess;
  }
  PinnedBlock block;
  auto isStart = [&] {
    return findPinned(pointer, &block) && block.begin == reinterpret_cast<uintptr_t>(pointer);
  };
  bool known = isStart();
  if (known) {
    OR_TRY(checkDangerous("orFreeHost"));
    // Copies on any device may use it.
    for (int i = 0; i < deviceCount(); ++i) {
      OR_TRY(deviceAt(i).waitForAll("orFreeHost"));
    }
    Registry& all = registry();
    std::lock_guard<std::mutex> guard(all.mutex);
    known = all.blocks.erase(block.begin) == 1;
  }
  if (!known) {
    return fail(orErrorInvalidValue,
                "orFreeHost: pointer must come from orHostAlloc and not be freed yet, "
                "got %p",
                pointer);
  }
  munmap(pointer, block.size);
  return orSuccess;
}

orError_t orPointerGetAttributes(orPointerAttributes* attributes, const void* pointer) {
  OR_TRY(ensureReady());
  if (!attributes) {
    return fail(orErrorInvalidValue, "orPointerGetAttributes: attributes is NULL");
  }
  int device = deviceOfAddress(pointer);
  if (device >= 0) {
    Block block;
    if (!deviceAt(device).heap.find(reinterpret_cast<uintptr_t>(pointer), &block)) {
      return fail(orErrorInvalidDevicePointer,
                  "orPointerGetAttributes: %p is an address of device %d that is not "
                  "allocated",
                  pointer, device);
    }
    *attributes = {orMemoryTypeDevice, device, reinterpret_cast<void*>(block.begin), block.size};
    return orSuccess;
  }
  PinnedBlock pinned;
  if (findPinned(pointer, &pinned)) {
    *attributes = {orMemoryTypeHost, pinned.device, reinterpret_cast<void*>(pinned.begin),
                   pinned.size};
    return orSuccess;
  }
  *attributes = {orMemoryTypeUnregistered, -1, nullptr, 0};
  return orSuccess;
}
