#pragma once

// The inner product of tiles in cache: small matrices of float. For the sources
// of this folder only, see Note [Vector kernels].

#include "kernels/vector/Elements.h"

namespace at::openreg {
namespace {

// Accumulators that fit into the registers, with room for operands.
constexpr int64_t kTileRows = kLanes == 16 ? 6 : 4;
constexpr int64_t kTileVectors = kLanes == 16 ? 4 : 2;

template <int64_t kRows, int64_t kVectors>
inline void multiply_block(const float* a,
                           int64_t a_stride,
                           const float* b,
                           int64_t b_stride,
                           float* c,
                           int64_t c_stride,
                           int64_t inner,
                           bool accumulate) {
  Vec total[kRows][kVectors];
  unrolled<kRows>([&](auto i) {
    unrolled<kVectors>([&](auto j) {
      total[i][j] = accumulate ? Vec::loadu(c + i * c_stride + j * kLanes) : Vec(0.0f);
    });
  });
#pragma GCC unroll 4
  for (int64_t k = 0; k < inner; ++k) {
    Vec row[kVectors];
    unrolled<kVectors>([&](auto j) { row[j] = Vec::loadu(b + k * b_stride + j * kLanes); });
    unrolled<kRows>([&](auto i) {
      const Vec factor(a[i * a_stride + k]);
      unrolled<kVectors>(
          [&](auto j) { total[i][j] = at::vec::fmadd(factor, row[j], total[i][j]); });
    });
  }
  unrolled<kRows>([&](auto i) {
    unrolled<kVectors>([&](auto j) { total[i][j].store(c + i * c_stride + j * kLanes); });
  });
}

template <int64_t kRows>
inline void multiply_rows(const float* a,
                          int64_t a_stride,
                          const float* b,
                          int64_t b_stride,
                          float* c,
                          int64_t c_stride,
                          int64_t columns,
                          int64_t inner,
                          bool accumulate) {
  int64_t j = 0;
  for (; j + kTileVectors * kLanes <= columns; j += kTileVectors * kLanes) {
    multiply_block<kRows, kTileVectors>(a, a_stride, b + j, b_stride, c + j, c_stride, inner,
                                        accumulate);
  }
  for (; j < columns; j += kLanes) {
    multiply_block<kRows, 1>(a, a_stride, b + j, b_stride, c + j, c_stride, inner, accumulate);
  }
}

// c [rows, columns] = (accumulate ? c : 0) + a [rows, inner] * b [inner, columns];
// columns is a multiple of kLanes.
inline void multiply(const float* a,
                     int64_t a_stride,
                     const float* b,
                     int64_t b_stride,
                     float* c,
                     int64_t c_stride,
                     int64_t rows,
                     int64_t columns,
                     int64_t inner,
                     bool accumulate) {
  const auto some = [&](int64_t i, auto count) {
    multiply_rows<count()>(a + i * a_stride, a_stride, b, b_stride, c + i * c_stride, c_stride,
                           columns, inner, accumulate);
    return i + count();
  };
  int64_t i = 0;
  while (i + kTileRows <= rows) {
    i = some(i, std::integral_constant<int64_t, kTileRows>());
  }
  while (i + 2 <= rows) {
    i = some(i, std::integral_constant<int64_t, 2>());
  }
  if (i < rows) {
    some(i, std::integral_constant<int64_t, 1>());
  }
}

} // namespace
} // namespace at::openreg
