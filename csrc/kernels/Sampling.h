#pragma once

// What happens to logits and router scores: rows of a vocabulary or of experts.

#include <ATen/core/Tensor.h>

namespace at::openreg {

// out = logits, with -inf for what is not among the k largest of a row (values
// equal to the k-th stay), nor among the most probable of these that sum to p.
// k (Int or Long), p (Float): one for each row, or undefined.
void keep_top(at::Tensor& out, const at::Tensor& logits, const at::Tensor& k, const at::Tensor& p);

// tokens[row] = argmax(exp(logits) / noise)
void sample_tokens(at::Tensor& tokens, const at::Tensor& logits, const at::Tensor& noise);

// The weights.size(1) largest of softmax(gating), largest first, and their indices.
void route(at::Tensor& weights, at::Tensor& ids, const at::Tensor& gating, bool renormalize);

} // namespace at::openreg
