#pragma once

// Loads of elements as float vectors, whatever their dtype, and stores. For the
// sources of this folder only, see Note [Vector kernels].

#include <ATen/OpMathType.h>
#include <ATen/cpu/vec/functional.h>
#include <ATen/cpu/vec/vec.h>
#include <c10/core/ScalarType.h>
#include <c10/util/BFloat16.h>
#include <c10/util/Exception.h>
#include <c10/util/Float8_e4m3fn.h>
#include <c10/util/Float8_e5m2.h>
#include <c10/util/Half.h>

#include <bit>
#include <cstdint>
#include <cstring>
#include <limits>
#include <utility>

#include "kernels/Parallel.h"

namespace at::openreg {
namespace {

using Vec = at::vec::Vectorized<float>;
constexpr int64_t kLanes = Vec::size();

// For __builtin_prefetch: where more requests can be under way than for the first.
constexpr int kSecondLevel = 2;
constexpr int64_t kCacheLine = 64;

template <class T>
inline constexpr bool is_half = std::is_same_v<T, c10::BFloat16> || std::is_same_v<T, c10::Half>;

// The exponent and mantissa of an eight-bit float are shifted to float's places;
// the multiplication mends the exponent, and subnormals with it.
inline float float_of(c10::Float8_e4m3fn value) {
  const uint32_t bits = value.x;
  const uint32_t magnitude = bits & 0x7f;
  const float scaled = std::bit_cast<float>(magnitude << 20) * 0x1p120f;
  const float result = magnitude == 0x7f ? std::numeric_limits<float>::quiet_NaN() : scaled;
  return std::bit_cast<float>(std::bit_cast<uint32_t>(result) | (bits & 0x80) << 24);
}

inline float float_of(c10::Float8_e5m2 value) {
  const uint32_t bits = value.x;
  const uint32_t magnitude = bits & 0x7f;
  const float scaled = std::bit_cast<float>(magnitude << 21) * 0x1p112f;
  const uint32_t special = 0x7f800000u | (magnitude & 3) << 21; // infinity or NaN
  const uint32_t result = magnitude >= 0x7c ? special : std::bit_cast<uint32_t>(scaled);
  return std::bit_cast<float>(result | (bits & 0x80) << 24);
}

// kLanes elements from `p`.
template <class T>
inline Vec read(const T* p) {
  if constexpr (std::is_same_v<T, float>) {
    return Vec::loadu(p);
  } else if constexpr (std::is_same_v<T, c10::BFloat16>) {
    Vec result;
    at::vec::load_fp32_from_bf16(p, result);
    return result;
  } else if constexpr (std::is_same_v<T, c10::Half>) {
    Vec result;
    at::vec::load_fp32_from_fp16(p, result);
    return result;
  } else {
    alignas(64) float buffer[kLanes];
    for (int64_t i = 0; i < kLanes; ++i) {
      buffer[i] = float_of(p[i]);
    }
    return Vec::loadu(buffer);
  }
}

// The first `count` < kLanes elements, zero behind.
template <class T>
inline Vec read(const T* p, int64_t count) {
  if constexpr (std::is_same_v<T, float>) {
    return Vec::loadu(p, count);
  } else {
    T buffer[kLanes] = {};
    std::memcpy(static_cast<void*>(buffer), p, count * sizeof(T));
    return read(buffer);
  }
}

template <class T>
inline void write(T* p, const Vec& value, int64_t count = kLanes) {
#ifdef CPU_CAPABILITY_AVX512
  // at::vec converts two vectors at a time.
  if constexpr (is_half<T>) {
    if (count == kLanes) {
      __m256i half;
      if constexpr (std::is_same_v<T, c10::BFloat16>) {
        half = at::vec::cvtfp32_bf16(value);
      } else {
        half = at::vec::cvtfp32_fp16(value);
      }
      return _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), half);
    }
  }
#endif
  if constexpr (std::is_same_v<T, float>) {
    value.store(p, count);
  } else {
    static_assert(is_half<T>);
    at::vec::convert_from_float<T>(value, value).store(p, count);
  }
}

// op(0) to op(count - 1), with constants: arrays indexed by them stay in registers.
template <int64_t count, class F>
[[gnu::always_inline]] inline void unrolled(const F& op) {
  [&]<int64_t... i>(std::integer_sequence<int64_t, i...>) {
    (op(std::integral_constant<int64_t, i>()), ...);
  }(std::make_integer_sequence<int64_t, count>());
}

// op(i, n) for the vectors of [0, size): n lanes from i; the last may be short.
template <class F>
inline void for_each_vector(int64_t size, const F& op) {
  int64_t i = 0;
  for (; i + kLanes <= size; i += kLanes) {
    op(i, std::integral_constant<int64_t, kLanes>());
  }
  if (i < size) {
    op(i, size - i);
  }
}

// op(begin, end) for pieces of [0, size), on all threads of the kernel.
template <class F>
inline void parallel_for(int64_t size, int64_t grain, const F& op) {
  run_in_pieces(
      size, grain,
      [](const void* context, int64_t begin, int64_t end) {
        (*static_cast<const F*>(context))(begin, end);
      },
      &op);
}

template <class T>
inline Vec read(const T* p, std::integral_constant<int64_t, kLanes>) {
  return read(p);
}

inline float sum(const Vec& value) {
  return at::vec::vec_reduce_all<float>([](Vec& a, Vec& b) { return a + b; }, value);
}

inline float max(const Vec& value) {
  return at::vec::vec_reduce_all<float>([](Vec& a, Vec& b) { return at::vec::maximum(a, b); },
                                        value);
}

// op(T()) with the type of a floating-point dtype that kernels compute in.
template <class F>
inline void dispatch_floating(c10::ScalarType dtype, const F& op) {
  switch (dtype) {
    case c10::ScalarType::Float:
      return op(float());
    case c10::ScalarType::BFloat16:
      return op(c10::BFloat16());
    case c10::ScalarType::Half:
      return op(c10::Half());
    default:
      TORCH_INTERNAL_ASSERT(false, "no kernel for ", dtype);
  }
}

} // namespace
} // namespace at::openreg
