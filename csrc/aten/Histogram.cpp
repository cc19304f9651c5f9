// histc, for integers too: the CPU refuses them, CUDA counts them, and code that
// asks for the device's type gives them to every device but the CPU.

#include <ATen/ops/histc_ops.h>
#include <torch/library.h>

#include "aten/Boxed.h"
#include "aten/Structured.h"

namespace at::openreg {
namespace {

// float64 tells the bin of every integer of up to 53 bits exactly.
at::Tensor
count(const at::Tensor& self, int64_t bins, const at::Scalar& min, const at::Scalar& max) {
  const at::Tensor counts = call_boxed<at::_ops::histc>(self.to(at::kDouble), bins, min, max);
  return counts.to(self.scalar_type());
}

bool is_counted(const at::Tensor& self) {
  return c10::isIntegralType(self.scalar_type(), /*includeBool=*/false);
}

at::Tensor
histc(const at::Tensor& self, int64_t bins, const at::Scalar& min, const at::Scalar& max) {
  return is_counted(self) ? count(self, bins, min, max)
                          : call_boxed<at::_ops::histc>(self, bins, min, max);
}

at::Tensor& histc_out(const at::Tensor& self,
                      int64_t bins,
                      const at::Scalar& min,
                      const at::Scalar& max,
                      at::Tensor& out) {
  if (!is_counted(self)) {
    return call_boxed<at::_ops::histc_out>(self, bins, min, max, out);
  }
  TORCH_CHECK(out.scalar_type() == self.scalar_type(), "torch.histc: expected out to have dtype ",
              self.scalar_type(), ", the input's, but got ", out.scalar_type());
  SameDevice devices("wrapper_openreg__histc_out");
  devices.check(self, "self");
  devices.check(out, "out");
  const at::Tensor counts = count(self, bins, min, max);
  resize_out_argument(out, counts.sizes(), {}, counts.options());
  return out.copy_(counts);
}

TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
  m.impl("histc", TORCH_FN(histc));
  m.impl("histc.out", TORCH_FN(histc_out));
}

} // namespace
} // namespace at::openreg
