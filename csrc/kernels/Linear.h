#pragma once

#include <c10/core/ScalarType.h>

#include <cstdint>

#include "kernels/VectorKernel.h"

namespace at::openreg {

// How the elements of a weight are stored.
enum class WeightFormat : uint8_t {
  Plain, // x's dtype
  Int8,  // times the row's scale
  E4m3,  // times the row's scale
  E5m2,  // times the row's scale
  Int4,  // eight a word, the lowest bits first: (value - zero) * the group's scale
};

// Whether linear_kernel is the fastest for so many rows of x with a large weight of
// x's dtype. Short rows of the weight cost more to add up than to multiply.
inline bool is_few_rows(int64_t rows, int64_t inner) {
  return rows <= (inner < 512 ? 32 : 64);
}

// out [rows, columns] = x [rows, inner] * weight [columns, inner]^T + bias; x and
// the weight are dense in their last dimension.
struct LinearArgs {
  const void* x;
  int64_t x_stride;
  const void* weight;
  int64_t weight_stride; // in elements; in words for Int4
  const void* bias;      // [columns] or null
  void* out;
  int64_t out_stride;
  int64_t out_column_stride;
  int64_t rows;
  int64_t columns;
  int64_t inner;
  at::ScalarType dtype; // of x, bias and out
  WeightFormat format = WeightFormat::Plain;
  const float* scale = nullptr;  // [columns, groups], dense; groups is one but for Int4
  int64_t scale_stride = 0;      // 0: one scale for all columns
  const int32_t* zero = nullptr; // [columns, groups] or null: 8; Int4 only
  int64_t group = 0;             // elements of a group, a multiple of 16; Int4 only
};

inline constinit VectorKernel<LinearArgs> linear_kernel;

} // namespace at::openreg
