#include "kernels/LinkCopy.h"

#include <ATen/ops/copy_native.h>

#include "device/openreg_profile.h"

namespace at::openreg {

at::Tensor& copy_over_link(at::Tensor& self, const at::Tensor& src, bool non_blocking) {
  at::native::copy_(self, src, non_blocking);
  orThrottleTransfer(self.const_data_ptr(), src.const_data_ptr(), src.nbytes());
  return self;
}

} // namespace at::openreg
