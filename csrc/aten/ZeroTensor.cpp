// Tensors that are known to be zero and have no memory, which derivatives make.

#include <ATen/EmptyTensor.h>
#include <ATen/native/TensorFactories.h>
#include <ATen/ops/conj_physical_native.h>
#include <torch/library.h>

#include "aten/Launch.h"
#include "runtime/Functions.h"

namespace at::openreg {
namespace {

at::Tensor efficient_zero_tensor(at::IntArrayRef size,
                                 std::optional<at::ScalarType> dtype,
                                 std::optional<at::Layout>,
                                 std::optional<at::Device> device,
                                 std::optional<bool>) {
  const auto on = c10::openreg::with_index(c10::device_or_default(device));
  at::native::ZeroTensorAllocator allocator(on);
  return at::detail::empty_generic(
      size, &allocator,
      c10::DispatchKeySet({c10::DispatchKey::PrivateUse1, c10::DispatchKey::ZeroTensor}),
      c10::dtype_or_default(dtype), std::nullopt);
}

// ATen's own calls a kernel table that knows no device but its own.
at::Tensor& conj_physical_(at::Tensor& self) {
  if (self.is_complex()) {
    launch(self.get_device(), "aten::conj_physical_",
           static_cast<at::Tensor& (*)(at::Tensor&)>(&at::native::conj_physical_), self);
  }
  return self;
}

TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
  m.impl("_efficientzerotensor", TORCH_FN(efficient_zero_tensor));
  m.impl("conj_physical_", TORCH_FN(conj_physical_));
}

} // namespace
} // namespace at::openreg
