// Sparse compressed tensors: CSR, CSC, BSR, BSC. As for COO (Sparse.cpp).

#include <ATen/core/Tensor.h>
#include <ATen/ops/_nnz_native.h>
#include <ATen/ops/_sparse_mm_reduce_impl_native.h>
#include <ATen/ops/_sparse_mm_reduce_impl_ops.h>
#include <ATen/ops/ccol_indices_native.h>
#include <ATen/ops/clone_native.h>
#include <ATen/ops/col_indices_native.h>
#include <ATen/ops/copy_native.h>
#include <ATen/ops/crow_indices_native.h>
#include <ATen/ops/dense_dim_native.h>
#include <ATen/ops/empty_like_native.h>
#include <ATen/ops/empty_native.h>
#include <ATen/ops/is_pinned_native.h>
#include <ATen/ops/resize_as_sparse_native.h>
#include <ATen/ops/resize_native.h>
#include <ATen/ops/row_indices_native.h>
#include <ATen/ops/sparse_dim_native.h>
#include <ATen/ops/values_native.h>
#include <ATen/ops/zero_native.h>
#include <torch/library.h>

#include "aten/Fallback.h"
#include "aten/FallbackLog.h"
#include "aten/FallbackTensors.h"
#include "aten/OnDevice.h"
#include "kernels/KernelScope.h"
#include "runtime/Stream.h"

namespace at::openreg {
namespace {

// ATen's kernel keeps which elements amax and amin chose only for arguments that
// require a gradient, which the fallback's aliases do not.
std::tuple<at::Tensor, at::Tensor>
sparse_mm_reduce_impl(const at::Tensor& self, const at::Tensor& other, std::string_view reduce) {
  if (!at::GradMode::is_enabled() || !(self.requires_grad() || other.requires_grad())) {
    return call_fallback<at::_ops::_sparse_mm_reduce_impl>(self, other, reduce);
  }
  log_fallback("aten::_sparse_mm_reduce_impl");
  const auto device = self.get_device();
  const orStream_t stream = c10::openreg::current_stream_handle(device);
  OPENREG_CHECK(orStreamSynchronize(stream));
  FallbackTensors tensors(device);
  const at::Tensor sparse = tensors.alias_of(self);
  const at::Tensor dense = tensors.alias_of(other);
  sparse.set_requires_grad(true);
  std::tuple<at::Tensor, at::Tensor> result;
  run_on_host_thread(device, stream, [&] {
    const at::AutoGradMode gradients(true);
    result = at::native::_sparse_mm_reduce_impl_sparse_csr_cpu(sparse, dense, reduce);
  });
  return {tensors.to_device(std::get<0>(result)), tensors.to_device(std::get<1>(result))};
}

TORCH_LIBRARY_IMPL(aten, SparseCsrPrivateUse1, m) {
  m.impl("empty.memory_format", OPENREG_ON_DEVICE(at::native::empty_sparse_compressed));
  m.impl("empty_like", OPENREG_ON_DEVICE(at::native::empty_like_sparse_csr));
  m.impl("clone", OPENREG_ON_DEVICE(at::native::clone_sparse_compressed));
  m.impl("copy_", OPENREG_ON_DEVICE(at::native::copy_sparse_compressed_));
  m.impl("zero_", OPENREG_ON_DEVICE(at::native::zero_sparse_csr_));
  m.impl("resize_", OPENREG_ON_DEVICE(at::native::resize_sparse_csr_));
  m.impl("resize_as_sparse_", OPENREG_ON_DEVICE(at::native::resize_as_sparse_compressed_));

  m.impl("_sparse_mm_reduce_impl", TORCH_FN(sparse_mm_reduce_impl));

  m.impl("crow_indices", TORCH_FN(at::native::crow_indices_sparse_csr));
  m.impl("col_indices", TORCH_FN(at::native::col_indices_sparse_csr));
  m.impl("ccol_indices", TORCH_FN(at::native::ccol_indices_sparse_csr));
  m.impl("row_indices", TORCH_FN(at::native::row_indices_sparse_csr));
  m.impl("values", TORCH_FN(at::native::values_sparse_csr));
  m.impl("_nnz", TORCH_FN(at::native::_nnz_sparse_csr));
  m.impl("sparse_dim", TORCH_FN(at::native::sparse_dim_sparse_csr));
  m.impl("dense_dim", TORCH_FN(at::native::dense_dim_sparse_csr));
  m.impl("is_pinned", TORCH_FN(at::native::is_pinned_sparse_compressed));

  fall_back_for_the_rest(m, c10::DispatchKey::SparseCsrCPU, c10::DispatchKey::SparseCsrPrivateUse1);
}

TORCH_LIBRARY_IMPL(_, SparseCsrPrivateUse1, m) {
  m.fallback(torch::CppFunction::makeFromBoxedFunction<&fallback>());
}

} // namespace
} // namespace at::openreg
