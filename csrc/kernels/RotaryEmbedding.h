#pragma once

#include <c10/core/ScalarType.h>

#include "kernels/VectorKernel.h"

namespace at::openreg {

// Heads rotated in place: [tokens, heads, head size], each head dense.
struct RotatedHeads {
  void* data;
  int64_t heads;
  int64_t token_stride; // in elements
  int64_t head_stride;
};

struct RotaryEmbeddingArgs {
  const void* positions;
  at::ScalarType position_dtype; // Int or Long; all within the cache
  int64_t tokens;
  RotatedHeads query;
  RotatedHeads key;    // no heads: none
  const void* cos_sin; // [positions, rotary_dim], cosines, then sines
  int64_t cos_sin_stride;
  int64_t rotary_dim;
  at::ScalarType dtype;
  at::ScalarType cos_sin_dtype;
  bool is_neox; // halves are paired, else neighbours
};

inline constinit VectorKernel<RotaryEmbeddingArgs> rotary_embedding_kernel;

} // namespace at::openreg
