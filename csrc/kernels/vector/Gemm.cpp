#include "kernels/Gemm.h"

#include <algorithm>
#include <memory>

#include "kernels/vector/Elements.h"
#include "kernels/vector/Tiles.h"

// Products of many rows. A thread takes a panel of b, as wide as a tile, copies it
// so that its rows follow each other, and multiplies rows of a with it: the panel
// stays in the second-level cache, a tile's rows of a in the first.
//
// Structure after: Goto and van de Geijn, Anatomy of High-Performance Matrix
// Multiplication, 2008.

namespace at::openreg {
namespace {

constexpr int64_t kPanel = kTileVectors * kLanes; // columns
constexpr int64_t kBlockRows = 192;               // of a, a unit of work at most
constexpr int64_t kBlockInner = 768;              // of a panel, at most
constexpr int64_t kChunkRows = 4 * kBlockRows;    // of a, converted at a time

int64_t divide_up(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

// As floats to `to`, `to_stride` apart: a matrix of dense rows.
template <class T>
void copy_rows(
    const T* from, int64_t stride, float* to, int64_t to_stride, int64_t rows, int64_t columns) {
  for (int64_t i = 0; i < rows; ++i) {
    for_each_vector(columns, [&](int64_t j, auto n) {
      read(from + i * stride + j, n).store(to + i * to_stride + j, static_cast<int>(n));
    });
  }
}

// The same of a matrix of dense columns, `stride` apart.
template <class T>
void copy_columns(
    const T* from, int64_t stride, float* to, int64_t to_stride, int64_t rows, int64_t columns) {
  for (int64_t j = 0; j < columns; j += kLanes) {
    const auto width = static_cast<int>(std::min(kLanes, columns - j));
    for (int64_t i = 0; i < rows; i += kLanes) {
      const int64_t height = std::min(kLanes, rows - i);
      const T* block = from + j * stride + i;
      float* target = to + i * to_stride + j;
      if constexpr (std::is_same_v<T, float>) {
        at::vec::transpose_mxn<float>(block, stride, target, to_stride, width,
                                      static_cast<int>(height));
      } else {
        alignas(64) float floats[kLanes * kLanes];
        copy_rows(block, stride, floats, kLanes, width, height);
        at::vec::transpose_mxn<float>(floats, kLanes, target, to_stride, width,
                                      static_cast<int>(height));
      }
    }
  }
}

template <class T>
void copy(const T* from,
          int64_t row_stride,
          int64_t column_stride,
          float* to,
          int64_t to_stride,
          int64_t rows,
          int64_t columns) {
  if (column_stride == 1) {
    copy_rows(from, row_stride, to, to_stride, rows, columns);
  } else {
    copy_columns(from, column_stride, to, to_stride, rows, columns);
  }
}

// A panel of b of one thread, and the part of c it computes where that is not
// written in place.
template <class T>
class Panel {
 public:
  explicit Panel(const GemmArgs& args)
      : args_(args), steps_(divide_up(args.inner, kBlockInner)),
        step_(divide_up(args.inner, steps_)), memory_(new float[step_ * kPanel]) {}

  // c's block at `row`, `column`, with the rows of `a` as floats.
  void multiply_rows(const float* a, int64_t a_stride, int64_t row, int64_t rows, int64_t column) {
    const int64_t columns = std::min(kPanel, args_.columns - column);
    const int64_t padded = divide_up(columns, kLanes) * kLanes;
    T* c = static_cast<T*>(args_.c) + row * args_.c_stride + column;
    const bool in_place = std::is_same_v<T, float> && padded == columns;
    if (!in_place && result_ == nullptr) {
      result_.reset(new float[kBlockRows * kPanel]);
    }
    float* result = in_place ? reinterpret_cast<float*>(c) : result_.get();
    const int64_t stride = in_place ? args_.c_stride : kPanel;
    if (args_.bias != nullptr) {
      const T* bias = static_cast<const T*>(args_.bias) + column;
      for (int64_t i = 0; i < rows; ++i) {
        copy_rows(bias, 0, result + i * stride, stride, 1, columns);
      }
    }
    for (int64_t k = 0; k < args_.inner; k += step_) {
      const int64_t inner = std::min(step_, args_.inner - k);
      load(k, inner, column, columns);
      multiply({.a = a + k,
                .a_stride = a_stride,
                .b = memory_.get(),
                .b_stride = kPanel,
                .c = result,
                .c_stride = stride,
                .rows = rows,
                .columns = padded,
                .inner = inner,
                .accumulate = k > 0 || args_.bias != nullptr});
    }
    if (!in_place) {
      for (int64_t i = 0; i < rows; ++i) {
        for_each_vector(columns, [&](int64_t j, auto n) {
          write(c + i * args_.c_stride + j, Vec::loadu(result + i * stride + j), n);
        });
      }
    }
  }

 private:
  void load(int64_t k, int64_t inner, int64_t column, int64_t columns) {
    if (k == k_ && column == column_) {
      return;
    }
    if (columns % kLanes != 0) {
      std::fill_n(memory_.get(), step_ * kPanel, 0.0f);
    }
    const T* b = static_cast<const T*>(args_.b);
    copy(b + k * args_.b_inner_stride + column * args_.b_column_stride, args_.b_inner_stride,
         args_.b_column_stride, memory_.get(), kPanel, inner, columns);
    k_ = k;
    column_ = column;
  }

  const GemmArgs& args_;
  int64_t steps_;
  int64_t step_;
  std::unique_ptr<float[]> memory_;
  std::unique_ptr<float[]> result_;
  int64_t k_ = -1; // of what was loaded
  int64_t column_ = -1;
};

// Rows [first, first + rows) of c.
template <class T>
void multiply_chunk(
    const GemmArgs& args, const float* a, int64_t a_stride, int64_t first, int64_t rows) {
  const int64_t panels = divide_up(args.columns, kPanel);
  const int64_t block =
      divide_up(divide_up(rows, divide_up(rows, kBlockRows)), kTileRows) * kTileRows;
  const int64_t blocks = divide_up(rows, block);
  parallel_for(panels * blocks, 1, [&](int64_t begin, int64_t end) {
    Panel<T> panel(args);
    for (int64_t i = begin; i < end; ++i) {
      const int64_t row = i % blocks * block;
      panel.multiply_rows(a + row * a_stride, a_stride, first + row, std::min(block, rows - row),
                          i / blocks * kPanel);
    }
  });
}

template <class T>
void multiply_converted(const GemmArgs& args) {
  const T* a = static_cast<const T*>(args.a);
  const int64_t inner = args.inner;
  const std::unique_ptr<float[]> memory(new float[std::min(args.rows, kChunkRows) * inner]);
  for (int64_t row = 0; row < args.rows; row += kChunkRows) {
    const int64_t rows = std::min(kChunkRows, args.rows - row);
    parallel_for(divide_up(rows, kLanes), 1, [&](int64_t begin, int64_t end) {
      const int64_t i = begin * kLanes;
      copy(a + (row + i) * args.a_row_stride, args.a_row_stride, args.a_inner_stride,
           memory.get() + i * inner, inner, std::min(end * kLanes, rows) - i, inner);
    });
    multiply_chunk<T>(args, memory.get(), inner, row, rows);
  }
}

void gemm(const GemmArgs& args) {
  if (args.dtype == at::kHalf) {
    multiply_converted<c10::Half>(args);
  } else if (args.a_inner_stride == 1) {
    multiply_chunk<float>(args, static_cast<const float*>(args.a), args.a_row_stride, 0, args.rows);
  } else {
    multiply_converted<float>(args);
  }
}

} // namespace

OPENREG_REGISTER_VECTOR_KERNEL(gemm_kernel, gemm)

} // namespace at::openreg
