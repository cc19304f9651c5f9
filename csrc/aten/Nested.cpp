// Nested tensors of the strided layout (jagged ones are a Python class over
// dense tensors). Their sizes, strides and offsets are host tensors, their
// numbers one device buffer. ATen's device-generic functions make them and their
// views; arithmetic is the fallback.

#include <ATen/core/Tensor.h>
#include <ATen/ops/_nested_tensor_size_native.h>
#include <ATen/ops/_nested_tensor_storage_offsets_native.h>
#include <ATen/ops/_nested_tensor_strides_native.h>
#include <ATen/ops/_nested_view_from_buffer_native.h>
#include <ATen/ops/_to_copy_native.h>
#include <ATen/ops/alias_native.h>
#include <ATen/ops/chunk_native.h>
#include <ATen/ops/clone_native.h>
#include <ATen/ops/copy_native.h>
#include <ATen/ops/detach_native.h>
#include <ATen/ops/empty_like_native.h>
#include <ATen/ops/is_same_size_native.h>
#include <ATen/ops/narrow_native.h>
#include <ATen/ops/select_native.h>
#include <ATen/ops/split_with_sizes_native.h>
#include <ATen/ops/squeeze_native.h>
#include <ATen/ops/transpose_native.h>
#include <ATen/ops/unbind_native.h>
#include <ATen/ops/unsqueeze_native.h>
#include <ATen/ops/values_native.h>
#include <ATen/ops/view_native.h>
#include <torch/library.h>

#include "aten/Fallback.h"
#include "aten/OnDevice.h"

namespace at::openreg {
namespace {

using SqueezeDim = at::Tensor (*)(const at::Tensor&, int64_t);
using SqueezeDims = at::Tensor (*)(const at::Tensor&, at::IntArrayRef);

TORCH_LIBRARY_IMPL(aten, NestedTensorPrivateUse1, m) {
  m.impl("empty_like", OPENREG_ON_DEVICE(at::native::empty_like_nested));
  m.impl("clone", OPENREG_ON_DEVICE(at::native::clone_nested));
  m.impl("_to_copy", OPENREG_ON_DEVICE(at::native::_to_copy_nested));
  m.impl("copy_", OPENREG_ON_DEVICE(at::native::copy_nested_));

  m.impl("_nested_tensor_size", TORCH_FN(at::native::_nested_tensor_size));
  m.impl("_nested_tensor_strides", TORCH_FN(at::native::_nested_tensor_strides));
  m.impl("_nested_tensor_storage_offsets", TORCH_FN(at::native::_nested_tensor_storage_offsets));
  m.impl("is_same_size", TORCH_FN(at::native::nested_is_same_size));
  m.impl("alias", TORCH_FN(at::native::alias_nested));
  m.impl("detach", TORCH_FN(at::native::detach));
  m.impl("values", TORCH_FN(at::native::values_nested));
  m.impl("unbind.int", TORCH_FN(at::native::NestedTensor_unbind));
  m.impl("select.int", TORCH_FN(at::native::select_nested));
  m.impl("narrow", TORCH_FN(at::native::narrow_nested_symint));
  m.impl("chunk", TORCH_FN(at::native::chunk_nested_tensor));
  m.impl("split_with_sizes", TORCH_FN(at::native::split_with_sizes_nested));
  m.impl("transpose.int", TORCH_FN(at::native::transpose_nested));
  m.impl("view", TORCH_FN(at::native::view_nested));
  m.impl("squeeze", TORCH_FN(at::native::squeeze_nested));
  m.impl("squeeze.dim", static_cast<SqueezeDim>(&at::native::squeeze_dim_nested));
  m.impl("squeeze.dims", static_cast<SqueezeDims>(&at::native::squeeze_dim_nested));
  m.impl("unsqueeze", TORCH_FN(at::native::unsqueeze_nested));

  fall_back_for_the_rest(m, c10::DispatchKey::NestedTensorCPU,
                         c10::DispatchKey::NestedTensorPrivateUse1);
}

TORCH_LIBRARY_IMPL(_, NestedTensorPrivateUse1, m) {
  m.fallback(torch::CppFunction::makeFromBoxedFunction<&fallback>());
}

// Its sizes, strides and offsets are on the host.
TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
  m.impl("_nested_view_from_buffer", TORCH_FN(at::native::_nested_view_from_buffer));
}

} // namespace
} // namespace at::openreg
