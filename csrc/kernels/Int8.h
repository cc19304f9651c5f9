#pragma once

// Rows of int8 with a scale each, and products of such rows.

#include <c10/core/ScalarType.h>

#include "kernels/Rows.h"
#include "kernels/VectorKernel.h"

namespace at::openreg {

// values * scales = x but for rounding; the largest of a row becomes 127.
struct QuantizeInt8Args {
  Rows x;
  int8_t* values;       // dense
  float* scales;        // one a row
  at::ScalarType dtype; // of x
};

inline constinit VectorKernel<QuantizeInt8Args> quantize_int8_kernel;

// out [rows, columns] = (x * x_scale) * (weight * weight_scale)^T + bias, summed in
// int32. All dense.
struct Int8LinearArgs {
  const int8_t* x; // [rows, inner]
  const float* x_scale;
  int64_t x_scale_stride;
  const int8_t* weight; // [columns, inner]
  const float* weight_scale;
  int64_t weight_scale_stride;
  const float* bias; // [columns] or null
  void* out;
  int64_t rows;
  int64_t columns;
  int64_t inner;
  at::ScalarType dtype; // of out
};

inline constinit VectorKernel<Int8LinearArgs> int8_linear_kernel;

} // namespace at::openreg
