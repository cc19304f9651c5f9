#include "kernels/KVCache.h"

#include <ATen/Parallel.h>
#include <c10/util/BFloat16.h>
#include <c10/util/Exception.h>
#include <c10/util/Float8_e4m3fn.h>
#include <c10/util/Float8_e5m2.h>
#include <c10/util/Half.h>

#include <algorithm>
#include <cstring>
#include <limits>

namespace at::openreg {
namespace {

// Conversion to an eight-bit float, saturated; NaN stays.
template <class C>
C saturated(float value) {
  const float limit = static_cast<float>(std::numeric_limits<C>::max());
  return static_cast<C>(value > limit ? limit : value < -limit ? -limit : value);
}

template <class T, class C>
void write_head(C* target, const T* source, int64_t size, float inverse_scale) {
  if constexpr (std::is_same_v<T, C>) {
    std::memcpy(static_cast<void*>(target), source, size * sizeof(T));
  } else {
    for (int64_t i = 0; i < size; ++i) {
      target[i] = saturated<C>(static_cast<float>(source[i]) * inverse_scale);
    }
  }
}

template <class T, class C>
void write_tokens(at::Tensor& cache,
                  const at::Tensor& tokens,
                  const at::Tensor& slots,
                  float inverse_scale) {
  const auto* slot_of = slots.const_data_ptr<int64_t>();
  const auto* source = static_cast<const T*>(tokens.const_data_ptr());
  auto* target = static_cast<C*>(cache.data_ptr());
  const int64_t heads = tokens.size(1);
  const int64_t size = tokens.size(2);
  const int64_t block_size = cache.size(1);
  const int64_t grain = std::max<int64_t>(1, (1 << 14) / std::max<int64_t>(1, heads * size));
  at::parallel_for(0, slots.numel(), grain, [&](int64_t begin, int64_t end) {
    for (int64_t token = begin; token < end; ++token) {
      const int64_t slot = slot_of[token];
      if (slot < 0) {
        continue;
      }
      const T* from = source + token * tokens.stride(0);
      C* to = target + slot / block_size * cache.stride(0) + slot % block_size * cache.stride(1);
      for (int64_t head = 0; head < heads; ++head) {
        write_head(to + head * cache.stride(2), from + head * tokens.stride(1), size,
                   inverse_scale);
      }
    }
  });
}

template <class T>
void write_as(at::Tensor& cache,
              const at::Tensor& tokens,
              const at::Tensor& slots,
              float inverse_scale) {
  switch (cache.scalar_type()) {
    case at::kFloat8_e4m3fn:
      return write_tokens<T, c10::Float8_e4m3fn>(cache, tokens, slots, inverse_scale);
    case at::kFloat8_e5m2:
      return write_tokens<T, c10::Float8_e5m2>(cache, tokens, slots, inverse_scale);
    default:
      return write_tokens<T, T>(cache, tokens, slots, inverse_scale);
  }
}

int64_t integer_at(const at::Tensor& tensor, int64_t index) {
  const int64_t offset = index * tensor.stride(-1);
  return tensor.scalar_type() == at::kLong ? tensor.const_data_ptr<int64_t>()[offset]
                                           : tensor.const_data_ptr<int32_t>()[offset];
}

} // namespace

void check_slots(const at::Tensor& slots, int64_t limit) {
  const auto* slot_of = slots.const_data_ptr<int64_t>();
  for (int64_t token = 0; token < slots.numel(); ++token) {
    TORCH_CHECK_INDEX(slot_of[token] < limit, "openreg::reshape_and_cache: expected slots below ",
                      limit, ", got ", slot_of[token], " for token ", token);
  }
}

void write_cache(at::Tensor& cache,
                 const at::Tensor& tokens,
                 const at::Tensor& slots,
                 float scale) {
  check_slots(slots, cache.size(0) * cache.size(1));
  const float inverse_scale = 1.0f / scale;
  switch (tokens.scalar_type()) {
    case at::kBFloat16:
      return write_as<c10::BFloat16>(cache, tokens, slots, inverse_scale);
    case at::kHalf:
      return write_as<c10::Half>(cache, tokens, slots, inverse_scale);
    default:
      return write_as<float>(cache, tokens, slots, inverse_scale);
  }
}

void compute_slots(at::Tensor& out,
                   const at::Tensor& query_start_loc,
                   const at::Tensor& positions,
                   const at::Tensor& block_table,
                   int64_t block_size) {
  const char* op = "openreg::slot_mapping";
  const int64_t sequences = query_start_loc.numel() - 1;
  const int64_t limit = std::min(positions.numel(), out.numel());
  const auto* blocks = block_table.const_data_ptr<int32_t>();
  const auto set = [&](int64_t token, int64_t slot) {
    const int64_t offset = token * out.stride(0);
    if (out.scalar_type() == at::kLong) {
      out.mutable_data_ptr<int64_t>()[offset] = slot;
    } else {
      out.mutable_data_ptr<int32_t>()[offset] = static_cast<int32_t>(slot);
    }
  };
  int64_t token = integer_at(query_start_loc, 0);
  TORCH_CHECK_INDEX(token == 0, op, ": expected query_start_loc to begin with 0, got ", token);
  for (int64_t sequence = 0; sequence < sequences; ++sequence) {
    const int64_t end = integer_at(query_start_loc, sequence + 1);
    TORCH_CHECK_INDEX(end >= token && end <= limit, op, ": expected query_start_loc[", sequence + 1,
                      "] from ", token, " to ", limit, ", the length of positions and out, got ",
                      end);
    for (; token < end; ++token) {
      const int64_t position = integer_at(positions, token);
      TORCH_CHECK_INDEX(position >= 0 && position / block_size < block_table.size(1), op,
                        ": expected positions below ", block_table.size(1) * block_size,
                        ", which block_table has room for, got ", position, " for token ", token);
      const int64_t block =
          blocks[sequence * block_table.stride(0) + position / block_size * block_table.stride(1)];
      set(token, block * block_size + position % block_size);
    }
  }
  for (; token < out.numel(); ++token) {
    set(token, -1);
  }
}

} // namespace at::openreg
