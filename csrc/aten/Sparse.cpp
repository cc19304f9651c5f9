// Sparse COO tensors. ATen's device-generic functions make them, copy them and
// read their components; their arithmetic is the fallback, which runs the CPU's
// sparse kernels on the components where they lie.

#include <ATen/core/Tensor.h>
#include <ATen/ops/_coalesced_native.h>
#include <ATen/ops/_dimI_native.h>
#include <ATen/ops/_dimV_native.h>
#include <ATen/ops/_indices_native.h>
#include <ATen/ops/_nnz_native.h>
#include <ATen/ops/_sparse_coo_tensor_with_dims_and_tensors_native.h>
#include <ATen/ops/_sparse_coo_tensor_with_dims_native.h>
#include <ATen/ops/_values_native.h>
#include <ATen/ops/clone_native.h>
#include <ATen/ops/copy_native.h>
#include <ATen/ops/copy_sparse_to_sparse_native.h>
#include <ATen/ops/dense_dim_native.h>
#include <ATen/ops/empty_like_native.h>
#include <ATen/ops/empty_native.h>
#include <ATen/ops/indices_native.h>
#include <ATen/ops/is_coalesced_native.h>
#include <ATen/ops/is_pinned_native.h>
#include <ATen/ops/permute_native.h>
#include <ATen/ops/resize_as_sparse_native.h>
#include <ATen/ops/sparse_dim_native.h>
#include <ATen/ops/sparse_resize_and_clear_native.h>
#include <ATen/ops/sparse_resize_native.h>
#include <ATen/ops/unsqueeze_native.h>
#include <ATen/ops/values_native.h>
#include <ATen/ops/zero_native.h>
#include <torch/library.h>

#include "aten/Fallback.h"
#include "aten/OnDevice.h"

namespace at::openreg {
namespace {

TORCH_LIBRARY_IMPL(aten, SparsePrivateUse1, m) {
  m.impl("empty.memory_format", OPENREG_ON_DEVICE(at::native::empty_sparse));
  m.impl("empty_like", OPENREG_ON_DEVICE(at::native::empty_like_sparse_coo));
  m.impl("_sparse_coo_tensor_with_dims", OPENREG_ON_DEVICE(at::native::new_with_dims_sparse));
  m.impl("_sparse_coo_tensor_with_dims_and_tensors",
         OPENREG_ON_DEVICE(at::native::new_with_dims_and_tensor_sparse_symint));
  m.impl("clone", OPENREG_ON_DEVICE(at::native::clone_sparse));
  m.impl("copy_", OPENREG_ON_DEVICE(at::native::copy_sparse_wrapper_));
  m.impl("copy_sparse_to_sparse_", OPENREG_ON_DEVICE(at::native::copy_sparse_));
  m.impl("zero_", OPENREG_ON_DEVICE(at::native::zero_sparse_));
  m.impl("sparse_resize_", OPENREG_ON_DEVICE(at::native::sparse_resize_));
  m.impl("sparse_resize_and_clear_", OPENREG_ON_DEVICE(at::native::sparse_resize_and_clear_));
  m.impl("resize_as_sparse_", OPENREG_ON_DEVICE(at::native::resize_as_sparse_));
  m.impl("permute", OPENREG_ON_DEVICE(at::native::permute_sparse_coo));
  m.impl("unsqueeze", OPENREG_ON_DEVICE(at::native::unsqueeze_sparse));

  m.impl("_indices", TORCH_FN(at::native::_indices_sparse));
  m.impl("_values", TORCH_FN(at::native::_values_sparse));
  m.impl("indices", TORCH_FN(at::native::indices_sparse));
  m.impl("values", TORCH_FN(at::native::values_sparse));
  m.impl("_nnz", TORCH_FN(at::native::_nnz_sparse));
  m.impl("sparse_dim", TORCH_FN(at::native::sparse_dim_sparse));
  m.impl("dense_dim", TORCH_FN(at::native::dense_dim_sparse));
  m.impl("_dimI", TORCH_FN(at::native::sparse_dim_sparse));
  m.impl("_dimV", TORCH_FN(at::native::dense_dim_sparse));
  m.impl("is_coalesced", TORCH_FN(at::native::is_coalesced_sparse));
  m.impl("_coalesced_", TORCH_FN(at::native::_coalesced_sparse_));
  m.impl("is_pinned", TORCH_FN(at::native::is_pinned_sparse_coo));

  fall_back_for_the_rest(m, c10::DispatchKey::SparseCPU, c10::DispatchKey::SparsePrivateUse1);
}

TORCH_LIBRARY_IMPL(_, SparsePrivateUse1, m) {
  m.fallback(torch::CppFunction::makeFromBoxedFunction<&fallback>());
}

} // namespace
} // namespace at::openreg
