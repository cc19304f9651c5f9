#include "aten/Structured.h"

namespace at::openreg {

void SameDevice::check(const at::Tensor& tensor, const char* argument) {
  if (!tensor.defined()) {
    return;
  }
  const at::Device device = tensor.device();
  if (!device_.has_value()) {
    device_ = device;
    return;
  }
  TORCH_CHECK(*device_ == device, "Expected all tensors to be on the same device, but got ",
              argument, " is on ", device, ", different from other tensors on ", *device_,
              " (when checking argument in method ", op_, ")");
}

} // namespace at::openreg
