#pragma once

// The hooks: what at::Context, autograd, pinned memory, generators and storage
// resizing ask an accelerator for without linking it. PyTorch finds them through
// at::RegisterPrivateUse1HooksInterface; torch.accelerator is their main user.

#include <ATen/detail/PrivateUse1HooksInterface.h>

#include "runtime/Exception.h"

namespace at::openreg {

struct OPENREG_API OpenRegHooks final : public at::PrivateUse1HooksInterface {
  // May be asked in any state of the process; never throw.
  bool isBuilt() const override;
  bool isAvailable() const override;
  // Whether anything has been run or allocated on the device.
  bool hasPrimaryContext(DeviceIndex device_index) const override;

  void init() const override;

  DeviceIndex deviceCount() const override;
  DeviceIndex getCurrentDevice() const override;
  void setCurrentDevice(DeviceIndex device) const override;
  DeviceIndex exchangeDevice(DeviceIndex device) const override;
  DeviceIndex maybeExchangeDevice(DeviceIndex device) const override;

  bool isPinnedPtr(const void* data) const override;
  Allocator* getPinnedMemoryAllocator() const override;
  Device getDeviceFromPtr(void* data) const override;

  const Generator& getDefaultGenerator(DeviceIndex device_index = -1) const override;
  Generator getNewGenerator(DeviceIndex device_index = -1) const override;

  // UntypedStorage.resize_: new memory on the storage's device, with the old
  // bytes copied on the current stream.
  void resizePrivateUse1Bytes(const c10::Storage& storage, size_t newsize) const override;
};

} // namespace at::openreg
