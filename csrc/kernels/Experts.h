#pragma once

// Products of groups of rows, each group with a weight of its own. The groups are
// found where the kernel runs: nobody waits for what the router chose.

#include <ATen/core/Tensor.h>

#include "kernels/Activation.h"

namespace at::openreg {

// out[offsets[e]:offsets[e + 1]] = x[offsets[e]:offsets[e + 1]] * weight[e]^T
void multiply_groups(at::Tensor& out,
                     const at::Tensor& x,
                     const at::Tensor& weight,
                     const at::Tensor& offsets);

// out[t] = the sum over k of weights[t][k] * expert ids[t][k] applied to x[t].
// ids: Int or Long, negative ones are skipped; all dense.
void apply_experts(at::Tensor& out,
                   const at::Tensor& x,
                   const at::Tensor& w13,
                   const at::Tensor& w2,
                   const at::Tensor& weights,
                   const at::Tensor& ids,
                   Activation activation);

} // namespace at::openreg
