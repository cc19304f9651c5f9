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
  for (int64_t i = 0; i < kRows; ++i) {
    for (int64_t j = 0; j < kVectors; ++j) {
      total[i][j] = accumulate ? Vec::loadu(c + i * c_stride + j * kLanes) : Vec(0.0f);
    }
  }
  for (int64_t k = 0; k < inner; ++k) {
    Vec row[kVectors];
    for (int64_t j = 0; j < kVectors; ++j) {
      row[j] = Vec::loadu(b + k * b_stride + j * kLanes);
    }
    for (int64_t i = 0; i < kRows; ++i) {
      const Vec factor(a[i * a_stride + k]);
      for (int64_t j = 0; j < kVectors; ++j) {
        total[i][j] = at::vec::fmadd(factor, row[j], total[i][j]);
      }
    }
  }
  for (int64_t i = 0; i < kRows; ++i) {
    for (int64_t j = 0; j < kVectors; ++j) {
      total[i][j].store(c + i * c_stride + j * kLanes);
    }
  }
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
  int64_t i = 0;
  for (; i + kTileRows <= rows; i += kTileRows) {
    multiply_rows<kTileRows>(a + i * a_stride, a_stride, b, b_stride, c + i * c_stride, c_stride,
                             columns, inner, accumulate);
  }
  for (; i + 2 <= rows; i += 2) {
    multiply_rows<2>(a + i * a_stride, a_stride, b, b_stride, c + i * c_stride, c_stride, columns,
                     inner, accumulate);
  }
  if (i < rows) {
    multiply_rows<1>(a + i * a_stride, a_stride, b, b_stride, c + i * c_stride, c_stride, columns,
                     inner, accumulate);
  }
}

} // namespace
} // namespace at::openreg
