#pragma once

// mm and addmm as the device runs them, on CPU tensors: ATen's kernels, but where
// those of our own are faster, see Note [Products with kernels of our own].

#include <ATen/core/Tensor.h>
#include <c10/core/Scalar.h>

namespace at::openreg {

at::Tensor& matrix_product(const at::Tensor& self, const at::Tensor& mat2, at::Tensor& out);

at::Tensor& matrix_product_sum(const at::Tensor& self,
                               const at::Tensor& mat1,
                               const at::Tensor& mat2,
                               const at::Scalar& beta,
                               const at::Scalar& alpha,
                               at::Tensor& out);

} // namespace at::openreg
