#include "runtime/OutOfMemory.h"

#include <c10/core/Allocator.h>

#include <mutex>
#include <sstream>
#include <vector>

namespace c10::openreg {

namespace {

std::mutex observers_mutex;

std::vector<OutOfMemoryObserver>& observers() {
  static auto& all = *new std::vector<OutOfMemoryObserver>();
  return all;
}

} // namespace

void attach_out_of_memory_observer(OutOfMemoryObserver observer) {
  std::lock_guard<std::mutex> guard(observers_mutex);
  observers().push_back(std::move(observer));
}

void raise_out_of_memory(const OutOfMemory& what) {
  c10::reportOutOfMemoryToProfiler(static_cast<int64_t>(what.tried), what.allocated, what.reserved,
                                   Device(DeviceType::PrivateUse1, what.device));
  std::vector<OutOfMemoryObserver> to_call;
  {
    std::lock_guard<std::mutex> guard(observers_mutex);
    to_call = observers();
  }
  for (const OutOfMemoryObserver& observer : to_call) {
    observer(what);
  }

  using c10::CachingAllocator::format_size;
  std::ostringstream allowed;
  if (what.allowed < what.total) {
    allowed << format_size(what.allowed) << " allowed by the memory fraction; ";
  }
  TORCH_CHECK_WITH(OutOfMemoryError, false, "openreg out of memory. Tried to allocate ",
                   format_size(what.tried), ". Device ", static_cast<int>(what.device),
                   " has a total capacity of ", format_size(what.total), " of which ",
                   format_size(what.free), " is free. ", allowed.str(), "Of the memory in use, ",
                   format_size(what.allocated), " is allocated by PyTorch, and ",
                   format_size(what.reserved - what.allocated),
                   " is reserved by PyTorch but unallocated. If reserved but unallocated "
                   "memory is large, fragmentation may be why: see max_split_size_mb of "
                   "PYTORCH_ALLOC_CONF. OPENREG_DEVICE_MEMORY and OPENREG_PROFILE set the device's "
                   "capacity.");
}

} // namespace c10::openreg
