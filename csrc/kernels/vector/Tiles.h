#pragma once

// The inner product of tiles in cache: small matrices of float. For the sources
// of this folder only, see Note [Vector kernels].

#include "kernels/vector/Elements.h"

namespace at::openreg {
namespace {

// Accumulators that fit into the registers, with room for operands.
constexpr int64_t kTileRows = kLanes == 16 ? 6 : 4;
constexpr int64_t kTileVectors = kLanes == 16 ? 4 : 2;

// c [rows, columns] = (accumulate ? c : 0) + a [rows, inner] * b [inner, columns];
// columns is a multiple of kLanes.
struct Product {
  const float* a;
  int64_t a_stride;
  const float* b;
  int64_t b_stride;
  float* c;
  int64_t c_stride;
  int64_t rows;
  int64_t columns;
  int64_t inner;
  bool accumulate;
};

// The block at `row`, `column` of kRows rows and kVectors vectors.
template <int64_t kRows, int64_t kVectors>
inline void multiply_block(const Product& product, int64_t row, int64_t column) {
  const int64_t a_stride = product.a_stride;
  const int64_t b_stride = product.b_stride;
  const int64_t c_stride = product.c_stride;
  const float* a = product.a + row * a_stride;
  const float* b = product.b + column;
  float* c = product.c + row * c_stride + column;
  Vec total[kRows][kVectors];
  unrolled<kRows>([&](auto i) {
    unrolled<kVectors>([&](auto j) {
      total[i][j] = product.accumulate ? Vec::loadu(c + i * c_stride + j * kLanes) : Vec(0.0f);
    });
  });
  const int64_t inner = product.inner;
#pragma GCC unroll 4
  for (int64_t k = 0; k < inner; ++k) {
    Vec factors[kVectors];
    unrolled<kVectors>([&](auto j) { factors[j] = Vec::loadu(b + k * b_stride + j * kLanes); });
    unrolled<kRows>([&](auto i) {
      const Vec factor(a[i * a_stride + k]);
      unrolled<kVectors>(
          [&](auto j) { total[i][j] = at::vec::fmadd(factor, factors[j], total[i][j]); });
    });
  }
  unrolled<kRows>([&](auto i) {
    unrolled<kVectors>([&](auto j) { total[i][j].store(c + i * c_stride + j * kLanes); });
  });
}

inline void multiply(const Product& product) {
  int64_t row = 0;
  const auto rows_of = [&](auto count) {
    int64_t column = 0;
    for (; column + kTileVectors * kLanes <= product.columns; column += kTileVectors * kLanes) {
      multiply_block<count(), kTileVectors>(product, row, column);
    }
    for (; column < product.columns; column += kLanes) {
      multiply_block<count(), 1>(product, row, column);
    }
    row += count();
  };
  while (row + kTileRows <= product.rows) {
    rows_of(std::integral_constant<int64_t, kTileRows>());
  }
  while (row + 2 <= product.rows) {
    rows_of(std::integral_constant<int64_t, 2>());
  }
  if (row < product.rows) {
    rows_of(std::integral_constant<int64_t, 1>());
  }
}

} // namespace
} // namespace at::openreg
