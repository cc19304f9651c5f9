#pragma once

#include <c10/core/ScalarType.h>

#include "kernels/Rows.h"
#include "kernels/VectorKernel.h"

namespace at::openreg {

struct RmsNormArgs {
  Rows x;
  Rows out;             // where the result goes; may be x
  const Rows* residual; // null, or what x is added to first
  const void* weight;   // null: ones
  at::ScalarType dtype; // of x, out, residual
  at::ScalarType weight_dtype;
  float eps;
  float* rstd = nullptr; // [rows] or null: 1 / root mean square of each
};

inline constinit VectorKernel<RmsNormArgs> rms_norm_kernel;

} // namespace at::openreg
