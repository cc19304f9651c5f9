#pragma once

#include <c10/core/ScalarType.h>

#include "kernels/Rows.h"
#include "kernels/VectorKernel.h"

namespace at::openreg {

enum class Activation : uint8_t { Silu, Gelu, GeluTanh };

// out = activation(first half of x) * second half of x
struct GatedActivationArgs {
  Rows x; // [rows, 2 * width of out]
  Rows out;
  at::ScalarType dtype;
  Activation activation;
};

inline constinit VectorKernel<GatedActivationArgs> gated_activation_kernel;

} // namespace at::openreg
