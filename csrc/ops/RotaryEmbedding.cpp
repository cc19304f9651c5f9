#include "kernels/RotaryEmbedding.h"

#include "ops/Operator.h"

namespace at::openreg {
namespace {

constexpr const char* kOp = "openreg::rotary_embedding";

// Of [tokens, heads * head size] or [tokens, heads, head size].
RotatedHeads heads_of(const at::Tensor& tensor, int64_t head_size) {
  if (!tensor.defined()) {
    return {nullptr, 0, 0, 0};
  }
  const bool flat = tensor.dim() == 2;
  return {
      .data = tensor.data_ptr(),
      .heads = flat ? tensor.size(1) / head_size : tensor.size(1),
      .token_stride = tensor.stride(0),
      .head_stride = flat ? head_size : tensor.stride(1),
  };
}

void check_heads(const char* name, const at::Tensor& tensor, int64_t tokens, int64_t head_size) {
  const bool fits = (tensor.dim() == 2 && tensor.size(1) % head_size == 0) ||
                    (tensor.dim() == 3 && tensor.size(2) == head_size);
  TORCH_CHECK(fits && tensor.size(0) == tokens, kOp, ": expected ", name, " of shape [", tokens,
              ", heads * ", head_size, "] or [", tokens, ", heads, ", head_size, "], got ",
              tensor.sizes());
  check_dense_last(kOp, name, tensor);
}

void check_positions(const at::Tensor& positions, int64_t limit) {
  const auto check = [&](const auto* values) {
    for (int64_t i = 0; i < positions.numel(); ++i) {
      TORCH_CHECK_INDEX(values[i] >= 0 && values[i] < limit, kOp, ": expected positions below ",
                        limit, ", the length of cos_sin_cache, got ", values[i], " at ", i);
    }
  };
  if (positions.scalar_type() == at::kLong) {
    check(positions.const_data_ptr<int64_t>());
  } else {
    check(positions.const_data_ptr<int32_t>());
  }
}

void rotate(at::Tensor& query,
            at::Tensor& key,
            const at::Tensor& positions,
            const at::Tensor& cos_sin,
            int64_t head_size,
            bool is_neox) {
  check_positions(positions, cos_sin.size(0));
  rotary_embedding_kernel({
      .positions = positions.const_data_ptr(),
      .position_dtype = positions.scalar_type(),
      .tokens = positions.numel(),
      .query = heads_of(query, head_size),
      .key = heads_of(key, head_size),
      .cos_sin = cos_sin.const_data_ptr(),
      .cos_sin_stride = cos_sin.stride(0),
      .rotary_dim = cos_sin.size(1),
      .dtype = query.scalar_type(),
      .cos_sin_dtype = cos_sin.scalar_type(),
      .is_neox = is_neox,
  });
}

void rotary_embedding(const at::Tensor& positions,
                      at::Tensor& query,
                      const std::optional<at::Tensor>& key,
                      int64_t head_size,
                      const at::Tensor& cos_sin_cache,
                      bool is_neox) {
  TORCH_CHECK(head_size > 0, kOp, ": expected a positive head_size, got ", head_size);
  check_floating(kOp, "query", query);
  SameDeviceAs(kOp, query)
      .check("positions", positions)
      .check("key", key)
      .check("cos_sin_cache", cos_sin_cache);
  check_dtype(kOp, "positions", positions, {at::kLong, at::kInt});
  check_dim(kOp, "positions", positions, 1);
  check_heads("query", query, positions.numel(), head_size);
  if (key.has_value()) {
    check_dtype(kOp, "key", *key, {query.scalar_type()});
    check_heads("key", *key, positions.numel(), head_size);
  }
  check_dim(kOp, "cos_sin_cache", cos_sin_cache, 2);
  check_dense_last(kOp, "cos_sin_cache", cos_sin_cache);
  check_dtype(kOp, "cos_sin_cache", cos_sin_cache, {query.scalar_type(), at::kFloat});
  const int64_t rotary_dim = cos_sin_cache.size(1);
  TORCH_CHECK(rotary_dim % 2 == 0 && rotary_dim <= head_size, kOp,
              ": expected cos_sin_cache of an even width up to head_size ", head_size, ", got ",
              cos_sin_cache.sizes());
  at::Tensor mutable_key = key.value_or(at::Tensor());
  run(query, kOp, rotate, query, mutable_key, positions.contiguous(), cos_sin_cache, head_size,
      is_neox);
}

void rotary_embedding_meta(const at::Tensor&,
                           at::Tensor&,
                           const std::optional<at::Tensor>&,
                           int64_t,
                           const at::Tensor&,
                           bool) {}

TORCH_LIBRARY_FRAGMENT(openreg, m) {
  define(m,
         "rotary_embedding(Tensor positions, Tensor(a!) query, Tensor(b!)? key, int head_size, "
         "Tensor cos_sin_cache, bool is_neox=True) -> ()",
         rotary_embedding, rotary_embedding_meta);
}

} // namespace
} // namespace at::openreg
