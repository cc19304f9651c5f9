#pragma once

#include <c10/core/ScalarType.h>

#include <cstdint>

#include "kernels/VectorKernel.h"

namespace at::openreg {

// One of the two paged caches: [blocks, block size, kv heads, head size], the
// last dimension dense. Strides in elements.
struct PagedCache {
  const void* data;
  int64_t block_stride;
  int64_t token_stride;
  int64_t head_stride;
  int64_t head_size;
  float scale; // what elements are multiplied by
};

// [tokens, heads, head size], the last dimension dense.
struct TokenHeads {
  void* data;
  int64_t token_stride;
  int64_t head_stride;
};

struct PagedAttentionArgs {
  TokenHeads query;
  TokenHeads out;
  PagedCache key;
  PagedCache value;
  const int32_t* block_table; // rows of block numbers, checked by the caller
  int64_t block_table_stride;
  const int32_t* query_start; // [sequences + 1]
  const int32_t* lengths;     // [sequences], of keys
  int64_t sequences;
  int64_t heads;
  int64_t kv_heads;
  int64_t block_size;
  at::ScalarType dtype; // of query and out
  at::ScalarType cache_dtype;
  float scale;
  bool causal;
  int64_t window;      // 0: none
  float soft_cap;      // 0: none
  const float* slopes; // [heads] or null

  int64_t group() const {
    return heads / kv_heads;
  }
};

inline constinit VectorKernel<PagedAttentionArgs> paged_attention_kernel;

// The keys [begin, end) that the query at `position` of a sequence of `length` sees.
struct KeyRange {
  int64_t begin;
  int64_t end;
};
inline KeyRange visible_keys(const PagedAttentionArgs& args, int64_t position, int64_t length) {
  KeyRange range{0, args.causal ? position + 1 : length};
  if (args.window > 0) {
    range.begin = position + 1 > args.window ? position + 1 - args.window : 0;
    if (!args.causal && position + args.window < length) {
      range.end = position + args.window;
    }
  }
  return range;
}

} // namespace at::openreg
