#include "aten/Foreach.h"

#include <ATen/ops/_foreach_max_native.h>
#include <ATen/ops/_foreach_norm_native.h>
#include <ATen/ops/_foreach_powsum_native.h>
#include <ATen/ops/copy_native.h>
#include <torch/library.h>

namespace at::openreg {

bool ForeachLists::fits(at::TensorList list) const {
  if (list.size() != first_.size()) {
    return false;
  }
  const auto dtype = first_[0].scalar_type();
  const auto device = first_[0].device();
  for (size_t i = 0; i < list.size(); ++i) {
    const at::Tensor& tensor = list[i];
    const bool same =
        tensor.defined() && tensor.device() == device && tensor.scalar_type() == dtype &&
        at::isFloatingType(dtype) && tensor.sizes() == first_[i].sizes() &&
        tensor.strides() == first_[i].strides() && tensor.is_non_overlapping_and_dense();
    if (!same) {
      return false;
    }
  }
  return true;
}

void write_element(const at::Tensor& output, c10::function_ref<std::vector<at::Tensor>()> kernel) {
  const Placement placement{output.mutable_data_ptr(), output.storage().nbytes()};
  std::vector<at::Tensor> results;
  {
    OutputPlacements scope(&placement, output.numel() > 0 ? 1 : 0);
    results = kernel();
  }
  const at::Tensor& result = results[0];
  if (result.const_data_ptr() != output.const_data_ptr() || result.strides() != output.strides()) {
    at::native::copy_(const_cast<at::Tensor&>(output), result, false);
  }
}

namespace {

// A scalar for each tensor. An empty tensor may be an error, which the loop raises.
template <class... P, class... A>
std::vector<at::Tensor> foreach_reduced(const char* name,
                                        std::optional<at::ScalarType> dtype,
                                        std::vector<at::Tensor> (*kernel)(P...),
                                        at::TensorList self,
                                        const A&... args) {
  const ForeachLists lists(self);
  const bool is_empty = std::any_of(self.begin(), self.end(),
                                    [](const at::Tensor& tensor) { return tensor.numel() == 0; });
  if (!lists.can_launch() || is_empty || (dtype.has_value() && !at::isFloatingType(*dtype))) {
    return kernel(self, args...);
  }
  std::vector<at::Tensor> outputs;
  outputs.reserve(self.size());
  for (const at::Tensor& tensor : self) {
    outputs.push_back(
        allocate(contiguous({}, dtype.value_or(tensor.scalar_type())), lists.device()));
  }
  return launch_elements(name, lists.device(), std::move(outputs), kernel, self, args...);
}

std::vector<at::Tensor>
foreach_norm(at::TensorList self, const at::Scalar& ord, std::optional<at::ScalarType> dtype) {
  return foreach_reduced("aten::_foreach_norm.Scalar", dtype, &at::native::foreach_tensor_norm_slow,
                         self, ord, dtype);
}

std::vector<at::Tensor>
foreach_powsum(at::TensorList self, const at::Scalar& ord, std::optional<at::ScalarType> dtype) {
  return foreach_reduced("aten::_foreach_powsum.Scalar", dtype,
                         &at::native::foreach_tensor_powsum_slow, self, ord, dtype);
}

std::vector<at::Tensor> foreach_max(at::TensorList self) {
  return foreach_reduced("aten::_foreach_max", std::nullopt, &at::native::foreach_tensor_max_slow,
                         self);
}

TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
  m.impl("_foreach_norm.Scalar", TORCH_FN(foreach_norm));
  m.impl("_foreach_powsum.Scalar", TORCH_FN(foreach_powsum));
  m.impl("_foreach_max", TORCH_FN(foreach_max));
}

} // namespace
} // namespace at::openreg
