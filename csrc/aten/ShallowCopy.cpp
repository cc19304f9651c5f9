// Whether `tensor.data = other` may change a tensor's device: nn.Module.to then
// keeps its parameters' identity (and class: lazy modules), as for CUDA.

#include <ATen/core/Tensor.h>
#include <torch/library.h>

namespace at::openreg {
namespace {

bool has_compatible_shallow_copy_type(const at::Tensor& self, const at::Tensor& from) {
  const auto is_dense = [](const at::Tensor& tensor) {
    constexpr c10::DispatchKeySet backends(
        {c10::BackendComponent::CPUBit, c10::BackendComponent::PrivateUse1Bit});
    return tensor.key_set().has(c10::DispatchKey::Dense) && tensor.key_set().has_any(backends);
  };
  return (is_dense(self) && is_dense(from)) ||
         self.unsafeGetTensorImpl()->has_compatible_shallow_copy_type(from.key_set());
}

TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
  m.impl("_has_compatible_shallow_copy_type", TORCH_FN(has_compatible_shallow_copy_type));
}

} // namespace
} // namespace at::openreg
