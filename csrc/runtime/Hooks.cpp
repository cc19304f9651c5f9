#include "runtime/Hooks.h"

#include "runtime/HostAllocator.h"

#include <ATen/core/CachingHostAllocator.h>
#include <c10/core/DeviceGuard.h>

#include <algorithm>

#include "runtime/CachingAllocator.h"
#include "runtime/Functions.h"
#include "runtime/Generator.h"
#include "runtime/Stream.h"

namespace at::openreg {

namespace device = c10::openreg;

bool OpenRegHooks::isBuilt() const {
  return true;
}

bool OpenRegHooks::isAvailable() const {
  return device::device_count() > 0;
}

bool OpenRegHooks::hasPrimaryContext(DeviceIndex device_index) const {
  device::check_device(device_index);
  return device::has_context(device_index);
}

void OpenRegHooks::init() const {
  device::current_stream_handle(device::current_device());
}

DeviceIndex OpenRegHooks::deviceCount() const {
  return device::device_count();
}

DeviceIndex OpenRegHooks::getCurrentDevice() const {
  return device::current_device();
}

void OpenRegHooks::setCurrentDevice(DeviceIndex index) const {
  device::set_device(index);
}

DeviceIndex OpenRegHooks::exchangeDevice(DeviceIndex index) const {
  return device::exchange_device(index);
}

// What a guard's end calls: there is no context to avoid creating here, so it
// differs from exchangeDevice only in that -1 means no change.
DeviceIndex OpenRegHooks::maybeExchangeDevice(DeviceIndex index) const {
  return index < 0 ? device::current_device() : device::exchange_device(index);
}

bool OpenRegHooks::isPinnedPtr(const void* data) const {
  return at::openreg::is_pinned(data);
}

Allocator* OpenRegHooks::getPinnedMemoryAllocator() const {
  return at::getHostAllocator(at::kPrivateUse1);
}

Device OpenRegHooks::getDeviceFromPtr(void* data) const {
  orPointerAttributes attributes{};
  OPENREG_CHECK(orPointerGetAttributes(&attributes, data));
  TORCH_CHECK(attributes.type == orMemoryTypeDevice, "The specified pointer ", data,
              " is host memory, not memory of an openreg device.");
  return Device(at::kPrivateUse1, static_cast<DeviceIndex>(attributes.device));
}

const Generator& OpenRegHooks::getDefaultGenerator(DeviceIndex device_index) const {
  return default_generator(device_index);
}

Generator OpenRegHooks::getNewGenerator(DeviceIndex device_index) const {
  return create_generator(device_index);
}

void OpenRegHooks::resizePrivateUse1Bytes(const c10::Storage& storage, size_t newsize) const {
  c10::StorageImpl* impl = storage.unsafeGetStorageImpl();
  TORCH_CHECK(impl->resizable(), "Trying to resize storage that is not resizable");
  const c10::Device target = device::with_index(impl->device());
  const c10::DeviceGuard guard(target);
  const device::OpenRegStream stream = device::get_current_stream(target.index());

  at::DataPtr memory = newsize == 0 ? at::DataPtr(nullptr, target)
                                    : device::CachingAllocator::get()->allocate(newsize);
  const size_t kept = std::min(impl->nbytes(), newsize);
  if (kept > 0) {
    OPENREG_CHECK(
        orMemcpyAsync(memory.get(), impl->data(), kept, orMemcpyDeviceToDevice, stream.handle()));
    // The old memory may be another stream's, which could reuse it before the
    // copy has read it.
    if (device::CachingAllocator::owns(impl->data_ptr())) {
      device::CachingAllocator::record_stream(impl->data_ptr(), stream);
    }
  }
  impl->set_data_ptr_noswap(std::move(memory));
  impl->set_nbytes(newsize);
}

namespace {

// The backend's name, from which DeviceType and dispatch keys are printed and
// torch.device parsed. Python repeats it for its own side of the registration.
const bool registered = [] {
  c10::register_privateuse1_backend("openreg");
  at::RegisterPrivateUse1HooksInterface(new OpenRegHooks());
  return true;
}();

} // namespace
} // namespace at::openreg
