#pragma once

// Argument checks that ATen makes inside the CPU kernels of operators that are
// not structured. They run on the calling thread, so that wrong sizes, dtypes
// and parameters raise at the call, with the CPU's messages.

#include <ATen/core/Tensor.h>
#include <c10/core/Scalar.h>

#include "runtime/Exception.h"

namespace at::openreg {

OPENREG_API void check_scalar_tensor(const at::Tensor& value);
OPENREG_API void check_masked_fill(const at::Tensor& self, const at::Tensor& mask);
OPENREG_API void check_index_fill(const at::Tensor& self, int64_t dim, const at::Tensor& index);
OPENREG_API void check_index_select(const at::Tensor& self, int64_t dim, const at::Tensor& index);
OPENREG_API void check_take(const at::Tensor& self, const at::Tensor& index);
OPENREG_API void check_dims(const at::Tensor& self, at::IntArrayRef dims);
OPENREG_API void check_roll(const at::Tensor& self, at::IntArrayRef shifts, at::IntArrayRef dims);
OPENREG_API void check_embedding_backward(const at::Tensor& indices);
OPENREG_API void check_expands_to(const at::Tensor& tensor, const at::Tensor& self, const char* op);

OPENREG_API void
check_hardtanh(const at::Tensor& self, const at::Scalar& min, const at::Scalar& max);
OPENREG_API void check_floating(const at::Tensor& self, const char* op);
OPENREG_API void check_nansum(const at::Tensor& self);
OPENREG_API void check_not_empty(const at::Tensor& self, const char* op);
OPENREG_API void check_dot(const at::Tensor& self, const at::Tensor& other);
OPENREG_API void check_matrix(const at::Tensor& self, const char* op);
OPENREG_API void check_same_size(const at::Tensor& self, const at::Tensor& target, const char* op);
OPENREG_API void check_layer_norm(const at::Tensor& input,
                                  at::IntArrayRef normalized_shape,
                                  const std::optional<at::Tensor>& weight,
                                  const std::optional<at::Tensor>& bias);

OPENREG_API void check_standard_deviation(double std);

OPENREG_API void check_eye(int64_t n, int64_t m);
OPENREG_API void check_steps(int64_t steps);

} // namespace at::openreg
