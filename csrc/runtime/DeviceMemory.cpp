#include "runtime/DeviceMemory.h"

#include <mutex>

namespace c10::openreg {
namespace {

class CurrentDevice {
 public:
  explicit CurrentDevice(DeviceIndex device) {
    OPENREG_CHECK(orGetDevice(&previous_));
    OPENREG_CHECK(orSetDevice(device));
  }
  ~CurrentDevice() {
    (void)orSetDevice(previous_);
  }
  CurrentDevice(const CurrentDevice&) = delete;
  CurrentDevice& operator=(const CurrentDevice&) = delete;

 private:
  int previous_ = 0;
};

// A stream that carries nothing but frees, so that its queue has room.
orStream_t release_stream(DeviceIndex device) {
  static std::mutex mutex;
  static auto& streams = *new std::vector<orStream_t>();
  std::lock_guard<std::mutex> guard(mutex);
  if (streams.size() <= static_cast<size_t>(device)) {
    streams.resize(device + 1);
  }
  if (streams[device] == nullptr) {
    CurrentDevice current(device);
    OPENREG_CHECK(orStreamCreate(&streams[device]));
  }
  return streams[device];
}

} // namespace

void* device_malloc(DeviceIndex device, size_t size) {
  CurrentDevice current(device);
  void* pointer = nullptr;
  const orError_t error = orMalloc(&pointer, size);
  if (error == orErrorMemoryAllocation) {
    // Dealt with by the caller; must not be found as somebody's last error.
    (void)orGetLastError();
    return nullptr;
  }
  OPENREG_CHECK(error);
  return pointer;
}

void device_free(const std::vector<void*>& pointers) {
  orError_t error = orSuccess;
  for (void* pointer : pointers) {
    const orError_t result = orFree(pointer);
    error = error == orSuccess ? result : error;
  }
  OPENREG_CHECK(error);
}

void device_free_unused(DeviceIndex device, const std::vector<void*>& pointers) {
  orStream_t stream = release_stream(device);
  for (void* pointer : pointers) {
    OPENREG_CHECK(orFreeAsync(pointer, stream));
  }
}

size_t device_capacity(DeviceIndex device) {
  orDeviceProp properties;
  OPENREG_CHECK(orGetDeviceProperties(&properties, device));
  return properties.total_memory;
}

std::pair<size_t, size_t> device_memory_info(DeviceIndex device) {
  CurrentDevice current(device);
  std::pair<size_t, size_t> info;
  OPENREG_CHECK(orMemGetInfo(&info.first, &info.second));
  return info;
}

} // namespace c10::openreg
