#pragma once

// A tensor as rows: its last dimension, dense, at any strides of the others.

#include <ATen/core/Tensor.h>

#include "runtime/Exception.h"

namespace at::openreg {

struct Rows {
  // Rows of `tensor`, whose last dimension has stride 1 and whose others can be
  // seen as two.
  explicit Rows(const at::Tensor& tensor);

  // Dense rows, one behind the other.
  Rows(void* rows, int64_t row_count, int64_t row_width)
      : data(rows), count(row_count), width(row_width), inner(row_count), inner_stride(row_width) {}

  // Whether a tensor can be seen so.
  OPENREG_API static bool fit(const at::Tensor& tensor);

  template <class T>
  T* row(int64_t index) const {
    const int64_t offset = inner == count
                               ? index * inner_stride
                               : index / inner * outer_stride + index % inner * inner_stride;
    return static_cast<T*>(data) + offset;
  }

  void* data;
  int64_t count; // of rows
  int64_t width; // elements of a row
  int64_t inner = 1;
  int64_t inner_stride = 0; // in elements
  int64_t outer_stride = 0;
};

} // namespace at::openreg
