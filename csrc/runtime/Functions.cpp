#include "runtime/Functions.h"

#include <c10/core/impl/GPUTrace.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <limits>

namespace c10::openreg {

DeviceIndex device_count() noexcept {
  // Kept once known: it does not change, and a forked child, where the device
  // library refuses to answer, may still ask.
  static const DeviceIndex count = [] {
    int visible = 0;
    if (orGetDeviceCount(&visible) != orSuccess) {
      orGetLastError();
      return DeviceIndex{0};
    }
    return static_cast<DeviceIndex>(
        std::min<int>(visible, std::numeric_limits<DeviceIndex>::max()));
  }();
  return count;
}

DeviceIndex current_device() {
  int device = 0;
  OPENREG_CHECK(orGetDevice(&device));
  return static_cast<DeviceIndex>(device);
}

void set_device(DeviceIndex device) {
  check_device(device);
  OPENREG_CHECK(orSetDevice(device));
}

DeviceIndex exchange_device(DeviceIndex device) {
  const DeviceIndex previous = current_device();
  if (device != previous) {
    set_device(device);
  }
  return previous;
}

void check_device(int64_t device) {
  const int count = device_count();
  if (C10_LIKELY(device >= 0 && device < count)) {
    return;
  }
  if (count == 0) {
    // device_count keeps silent about why there is none.
    int visible = 0;
    OPENREG_CHECK(orGetDeviceCount(&visible));
  }
  std::string message = c10::str("openreg:", device, ": invalid device ordinal, ");
  if (count == 0) {
    message += "no openreg device is visible";
  } else {
    message += c10::str(count, count == 1 ? " device is" : " devices are", " visible (openreg:0",
                        count == 1 ? "" : c10::str(" to openreg:", count - 1), ")");
  }
  throw AcceleratorError({__func__, __FILE__, static_cast<uint32_t>(__LINE__)},
                         static_cast<int32_t>(orErrorInvalidDevice), std::move(message));
}

Device with_index(Device device) {
  TORCH_CHECK(device.type() == DeviceType::PrivateUse1, "expected an openreg device, got ", device);
  return device.has_index() ? device : Device(DeviceType::PrivateUse1, current_device());
}

void device_synchronize(DeviceIndex device) {
  if (const auto* trace = impl::GPUTrace::get_trace(); C10_UNLIKELY(trace)) {
    (*trace)->trace_gpu_device_synchronization(DeviceType::PrivateUse1);
  }
  // The guard restores the device also when the synchronisation reports an
  // asynchronous error.
  struct Restore {
    DeviceIndex device;
    ~Restore() {
      orSetDevice(device);
    }
  } const restore{exchange_device(device)};
  OPENREG_CHECK(orDeviceSynchronize());
}

} // namespace c10::openreg
