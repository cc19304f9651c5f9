#pragma once

// What happens to logits and router scores: rows of a vocabulary or of experts.

#include <ATen/core/Tensor.h>

#include "kernels/Rows.h"
#include "kernels/VectorKernel.h"

namespace at::openreg {

// out = logits, with -inf for what is not among the k largest of a row (values
// equal to the k-th stay), nor among the most probable of these that sum to p.
// k (Int or Long), p (Float): one for each row, or undefined.
void keep_top(at::Tensor& out, const at::Tensor& logits, const at::Tensor& k, const at::Tensor& p);

// tokens[row]: where the cumulative sum of softmax(logits) exceeds uniform[row]; 0 if
// all logits are -inf.
struct SampleArgs {
  int64_t* tokens;
  Rows logits;
  const double* uniform; // of [0, 1)
  at::ScalarType dtype;  // of logits
};

inline constinit VectorKernel<SampleArgs> sample_kernel;

// The weights.size(1) largest of softmax(gating), largest first, and their indices.
void route(at::Tensor& weights, at::Tensor& ids, const at::Tensor& gating, bool renormalize);

} // namespace at::openreg
