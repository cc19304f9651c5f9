#pragma once

#include <c10/core/ScalarType.h>

#include <cstdint>

#include "kernels/VectorKernel.h"

namespace at::openreg {

// c [rows, columns] = a [rows, inner] * b [inner, columns] + bias, float or Half. Of
// a's strides, and of b's, one is 1; c is dense in its last dimension.
struct GemmArgs {
  const void* a;
  int64_t a_row_stride;
  int64_t a_inner_stride;
  const void* b;
  int64_t b_inner_stride;
  int64_t b_column_stride;
  const void* bias; // [columns] or null
  void* c;
  int64_t c_stride;
  int64_t rows;
  int64_t columns;
  int64_t inner;
  at::ScalarType dtype;
};

inline constinit VectorKernel<GemmArgs> gemm_kernel;

} // namespace at::openreg
