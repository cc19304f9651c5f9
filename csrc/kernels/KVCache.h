#pragma once

// The paged cache of keys and values: what writes it.

#include <ATen/core/Tensor.h>

#include "runtime/Exception.h"

namespace at::openreg {

// Writes tokens [tokens, kv heads, head size] to their slots of a cache [blocks,
// block size, kv heads, head size]; negative slots are skipped. The last
// dimension of both is dense. An eight-bit cache holds the value / scale.
// Raises IndexError for a slot behind the cache, before it writes any.
void write_cache(at::Tensor& cache, const at::Tensor& tokens, const at::Tensor& slots, float scale);

// Raises IndexError unless every slot is below `limit`.
void check_slots(const at::Tensor& slots, int64_t limit);

// out[token] = slot of the token of each sequence; -1 behind the last one.
void compute_slots(at::Tensor& out,
                   const at::Tensor& query_start_loc,
                   const at::Tensor& positions,
                   const at::Tensor& block_table,
                   int64_t block_size);

} // namespace at::openreg
