#include "kernels/Linear.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <memory>

#include "kernels/vector/BFloat16Tiles.h"
#include "kernels/vector/Elements.h"

// Products with a weight that is read once, in its own format, by few rows of x:
// each thread takes some rows of the weight and sums up along them. More rows of
// x than fit into registers find the weight's rows in the cache, turned to float.
//
// How the weight is read decides the speed. The processor's own prefetching
// follows one row to its end, but loses its way where several rows are read side by
// side: so one or two rows of x take short rows of the weight in turn, and more of
// them ask early for what comes next, in the order of memory.

namespace at::openreg {
namespace {

constexpr int64_t kWeightRows = 4;                  // at a time
constexpr int64_t kTileRows = kLanes == 16 ? 4 : 2; // of x, at a time: as registers allow
constexpr int64_t kBlockRows = 16;                  // of the weight, a unit of work
constexpr int64_t kPassRows = 64;                   // of x, whose sums are kept
constexpr int64_t kShortRow = 4096;                 // bytes
constexpr int64_t kRowPart = 3072;                  // bytes: a tile's operands in the first cache

// What rows of the weight have in common that are read as float vectors.
struct AsFloat {
  using X = float;
  static constexpr int64_t kStep = kLanes;

  template <class N>
  static Vec input(const X* x, N n) {
    return read(x, n);
  }
  static void add(Vec& total, const Vec& weight, const Vec& x) {
    total = at::vec::fmadd(weight, x, total);
  }
};

template <class W>
struct FloatRow : AsFloat {
  const W* data;

  FloatRow() = default;
  explicit FloatRow(const W* row) : data(row) {}

  static int64_t bytes(int64_t elements) {
    return elements * static_cast<int64_t>(sizeof(*data));
  }
  template <class N>
  Vec weight(int64_t k, N n) const {
    return read(data + k, n);
  }
};

// Of int8, which at::vec converts four registers at a time.
struct Int8Row : AsFloat {
  const int8_t* data;

  Int8Row() = default;
  explicit Int8Row(const int8_t* row) : data(row) {}

  static int64_t bytes(int64_t elements) {
    return elements * static_cast<int64_t>(sizeof(*data));
  }
  template <class N>
  Vec weight(int64_t k, N n) const {
    alignas(64) float buffer[kLanes] = {};
    for (int64_t i = 0; i < n; ++i) {
      buffer[i] = static_cast<float>(data[k + i]);
    }
    return Vec::loadu(buffer);
  }
};

struct Int4Row : AsFloat {
  const uint32_t* data;
  const float* scale;
  const int32_t* zero;
  int64_t group;
  int shift; // log2 of the group, or -1

  Int4Row() = default;
  Int4Row(const uint32_t* row, const float* scales, const int32_t* zeros, int64_t elements)
      : data(row), scale(scales), zero(zeros), group(elements),
        shift(std::has_single_bit(static_cast<uint64_t>(elements))
                  ? std::countr_zero(static_cast<uint64_t>(elements))
                  : -1) {}

  static int64_t bytes(int64_t elements) {
    return elements / 2;
  }
  template <class N>
  Vec weight(int64_t k, N) const {
    alignas(64) float buffer[kLanes];
    const uint32_t* words = data + k / 8;
    for (int64_t i = 0; i < kLanes; ++i) {
      buffer[i] = static_cast<float>(words[i / 8] >> (i % 8 * 4) & 15);
    }
    const int64_t g = shift >= 0 ? k >> shift : k / group;
    const float offset = zero == nullptr ? 8.0f : static_cast<float>(zero[g]);
    return (Vec::loadu(buffer) - Vec(offset)) * Vec(scale[g]);
  }
};

#ifdef __AVX512BF16__
// Pairs of products in one instruction, without a conversion.
template <>
struct FloatRow<c10::BFloat16> {
  using X = c10::BFloat16;
  static constexpr int64_t kStep = 2 * kLanes;
  const X* data;

  FloatRow() = default;
  explicit FloatRow(const X* row) : data(row) {}

  static int64_t bytes(int64_t elements) {
    return elements * static_cast<int64_t>(sizeof(*data));
  }
  static __m512bh pairs(const X* p, std::integral_constant<int64_t, kStep>) {
    return std::bit_cast<__m512bh>(_mm512_loadu_si512(p));
  }
  static __m512bh pairs(const X* p, int64_t count) {
    const auto mask = static_cast<__mmask32>((uint64_t{1} << count) - 1);
    return std::bit_cast<__m512bh>(_mm512_maskz_loadu_epi16(mask, p));
  }
  template <class N>
  __m512bh weight(int64_t k, N n) const {
    return pairs(data + k, n);
  }
  template <class N>
  static __m512bh input(const X* x, N n) {
    return pairs(x, n);
  }
  static void add(Vec& total, __m512bh weight, __m512bh x) {
    total = Vec(_mm512_dpbf16_ps(total, weight, x));
  }
};
#endif

// a's neighbouring lanes added up, then b's.
inline Vec add_pairs(const Vec& a, const Vec& b) {
  const auto [even, odd] = at::vec::deinterleave2(a, b);
  return even + odd;
}

// For each of `count` vectors, a power of two, the sums of kLanes / `count` lanes each.
template <int64_t count>
inline Vec partial_sums(const Vec* vectors) {
  if constexpr (count == 1) {
    return vectors[0];
  } else {
    return add_pairs(partial_sums<count / 2>(vectors),
                     partial_sums<count / 2>(vectors + count / 2));
  }
}

// The sum of the lanes of each of `count` <= kLanes vectors: the first lanes of the result.
template <int64_t count>
inline Vec sums_of(const Vec* vectors) {
  Vec result = partial_sums<count>(vectors);
  for (int64_t lanes = kLanes / count; lanes > 1; lanes /= 2) {
    result = add_pairs(result, result);
  }
  return result;
}

// Of kRows rows of x and kColumns rows of the weight, elements [begin, end) of each,
// kUnroll vectors at a time: lane i * kColumns + j has their product. Meanwhile
// `ahead` times as much of the weight is asked for, from `next` on, line by line.
template <int64_t kRows, int64_t kColumns, int64_t kUnroll, class Row>
Vec dot_block(const Row* weight,
              const typename Row::X* x,
              int64_t x_stride,
              int64_t begin,
              int64_t end,
              const char* next,
              int64_t ahead) {
  Vec total[kUnroll][kRows * kColumns];
  unrolled<kUnroll>(
      [&](auto u) { unrolled<kRows * kColumns>([&](auto i) { total[u][i] = Vec(0.0f); }); });
  const auto step = [&](auto u, int64_t k, auto n) {
    const char* line = next + ahead * Row::bytes(k - begin);
    for (int64_t i = 0; i < ahead; ++i) {
      __builtin_prefetch(line + i * kCacheLine, 0, kSecondLevel);
    }
    decltype(weight[0].weight(k, n)) factor[kColumns];
    unrolled<kColumns>([&](auto j) { factor[j] = weight[j].weight(k, n); });
    unrolled<kRows>([&](auto i) {
      const auto value = Row::input(x + i * x_stride + k, n);
      unrolled<kColumns>([&](auto j) { Row::add(total[u][i * kColumns + j], factor[j], value); });
    });
  };
  constexpr std::integral_constant<int64_t, Row::kStep> full;
  int64_t k = begin;
  for (; k + kUnroll * full() <= end; k += kUnroll * full()) {
    unrolled<kUnroll>([&](auto u) { step(u, k + u * full(), full); });
  }
  constexpr std::integral_constant<int64_t, 0> first;
  for (; k + full() <= end; k += full()) {
    step(first, k, full);
  }
  if (k < end) {
    step(first, k, end - k);
  }
  unrolled<kUnroll - 1>([&](auto u) {
    unrolled<kRows * kColumns>([&](auto i) { total[0][i] = total[0][i] + total[u + 1][i]; });
  });
  return sums_of<kRows * kColumns>(total[0]);
}

// Where the products with some rows of the weight go, the first of which is `column`.
template <class T>
class Output {
 public:
  Output(const LinearArgs& args, int64_t column, int64_t columns)
      : out_(static_cast<T*>(args.out) + column * args.out_column_stride),
        row_stride_(args.out_stride), column_stride_(args.out_column_stride) {
    std::fill_n(scale_, kLanes, 1.0f);
    std::fill_n(bias_, kLanes, 0.0f);
    const auto column_of = [&](int64_t lane) {
      return column + std::min(lane % kWeightRows, columns - 1);
    };
    if (args.scale != nullptr && args.format != WeightFormat::Int4) {
      for (int64_t lane = 0; lane < kLanes; ++lane) {
        scale_[lane] = args.scale[column_of(lane) * args.scale_stride];
      }
    }
    if (args.bias != nullptr) {
      for (int64_t lane = 0; lane < kLanes; ++lane) {
        bias_[lane] = static_cast<float>(static_cast<const T*>(args.bias)[column_of(lane)]);
      }
    }
  }

  // Of kRows rows from `row` on, and kWeightRows columns: lane after lane.
  template <int64_t kRows>
  void set(int64_t row, const Vec& sums) const {
    T values[kLanes];
    write(values, at::vec::fmadd(sums, Vec::loadu(scale_), Vec::loadu(bias_)));
    for (int64_t i = 0; i < kRows; ++i) {
      T* out = out_ + (row + i) * row_stride_;
      const T* source = values + i * kWeightRows;
      if (column_stride_ == 1) {
        std::memcpy(static_cast<void*>(out), source, kWeightRows * sizeof(T));
      } else {
        for (int64_t j = 0; j < kWeightRows; ++j) {
          out[j * column_stride_] = source[j];
        }
      }
    }
  }

  // Of kRows rows from `row` on, and column j alone.
  template <int64_t kRows>
  void set_column(int64_t row, int64_t j, const Vec& sums) const {
    T values[kLanes];
    write(values, at::vec::fmadd(sums, Vec(scale_[j]), Vec(bias_[j])));
    for (int64_t i = 0; i < kRows; ++i) {
      out_[(row + i) * row_stride_ + j * column_stride_] = values[i];
    }
  }

 private:
  T* out_;
  int64_t row_stride_;
  int64_t column_stride_;
  alignas(64) float scale_[kLanes];
  alignas(64) float bias_[kLanes];
};

template <int64_t n>
using Count = std::integral_constant<int64_t, n>;

// All rows of x with up to kWeightRows rows of the weight, `column` being the first.
// `next`, if not null, is what follows them in memory.
template <class T, class Row>
void multiply_columns(const LinearArgs& args,
                      const Row* weight,
                      const char* next,
                      int64_t column,
                      int64_t columns,
                      const typename Row::X* x,
                      int64_t x_stride) {
  const Output<T> output(args, column, columns);
  const int64_t inner = args.inner;
  const auto one_by_one = [&](int64_t row, auto count, auto unroll) {
    for (int64_t j = 0; j < columns; ++j) {
      output.template set_column<count()>(
          row, j,
          dot_block<count(), 1, unroll()>(weight + j, x + row * x_stride, x_stride, 0, inner,
                                          nullptr, 0));
    }
  };
  const bool is_short = Row::bytes(inner) <= kShortRow;
  if (is_short && args.rows == 1) {
    return one_by_one(0, Count<1>(), Count<4>());
  }
  if (is_short && args.rows == 2) {
    return one_by_one(0, Count<2>(), Count<4>());
  }
  const int64_t parts = 1 + (Row::bytes(inner) - 1) / kRowPart;
  const int64_t part = (inner / parts / Row::kStep + 1) * Row::kStep;
  for (int64_t first = 0; first < args.rows; first += kPassRows) {
    const int64_t last = std::min(first + kPassRows, args.rows);
    const auto for_each_tile = [&](const auto& op) {
      int64_t row = first;
      for (; row + kTileRows <= last; row += kTileRows) {
        op(row, Count<kTileRows>());
      }
      for (; row + 2 <= last; row += 2) {
        op(row, Count<2>());
      }
      if (row < last) {
        op(row, Count<1>());
      }
    };
    if (columns < kWeightRows) {
      for_each_tile([&](int64_t row, auto count) { one_by_one(row, count, Count<1>()); });
      continue;
    }
    const int64_t rows = last - first;
    const int64_t tiles = rows / kTileRows + rows % kTileRows / 2 + rows % 2;
    Vec sums[kPassRows / kTileRows + 1];
    for (int64_t begin = 0; begin < inner; begin += part) {
      const int64_t end = std::min(begin + part, inner);
      int64_t tile = 0;
      for_each_tile([&](int64_t row, auto count) {
        // What comes next is asked for in equal parts by the tiles.
        const int64_t ahead =
            next == nullptr ? 0 : (tile + 1) * kWeightRows / tiles - tile * kWeightRows / tiles;
        const Vec more = dot_block<count(), kWeightRows, 1>(weight, x + row * x_stride, x_stride,
                                                            begin, end, next, ahead);
        next += ahead * Row::bytes(end - begin);
        sums[tile] = begin == 0 ? more : sums[tile] + more;
        if (end == inner) {
          output.template set<count()>(row, sums[tile]);
        }
        ++tile;
      });
    }
    next = nullptr; // asked for
  }
}

// x as elements X, converted once for all threads if it is of another dtype.
template <class T, class X>
class Input {
 public:
  explicit Input(const LinearArgs& args) {
    if constexpr (std::is_same_v<T, X>) {
      data = static_cast<const X*>(args.x);
      stride = args.x_stride;
    } else {
      memory_.reset(new X[args.rows * args.inner]);
      data = memory_.get();
      stride = args.inner;
      for (int64_t row = 0; row < args.rows; ++row) {
        const T* source = static_cast<const T*>(args.x) + row * args.x_stride;
        X* target = memory_.get() + row * args.inner;
        for_each_vector(args.inner, [&](int64_t i, auto n) {
          read(source + i, n).store(target + i, static_cast<int>(n));
        });
      }
    }
  }

  const X* data;
  int64_t stride;

 private:
  std::unique_ptr<X[]> memory_;
};

// `row_of` gives the reader of a row of the weight.
template <class T, class F>
void multiply(const LinearArgs& args, const F& row_of) {
  using Row = decltype(row_of(0));
  const Input<T, typename Row::X> x(args);
  const int64_t blocks = (args.columns + kBlockRows - 1) / kBlockRows;
  // Below some 64k elements of the weight a second thread costs more than it gives.
  const int64_t grain = std::max<int64_t>(1, (1 << 16) / (kBlockRows * args.inner + 1));
  parallel_for(blocks, grain, [&](int64_t begin, int64_t end) {
    const int64_t last = std::min(end * kBlockRows, args.columns);
    for (int64_t column = begin * kBlockRows; column < last; column += kWeightRows) {
      const int64_t columns = std::min(kWeightRows, last - column);
      Row rows[kWeightRows];
      for (int64_t j = 0; j < columns; ++j) {
        rows[j] = row_of(column + j);
      }
      const char* next = reinterpret_cast<const char*>(row_of(column + columns).data);
      multiply_columns<T>(args, rows, next, column, columns, x.data, x.stride);
    }
  });
}

// The same, with the rows of the weight converted to float first, once for many
// rows of x.
template <class T, class F>
void multiply_converted(const LinearArgs& args, const F& row_of) {
  const Input<T, float> x(args);
  const int64_t groups = (args.columns + kWeightRows - 1) / kWeightRows;
  parallel_for(groups, 1, [&](int64_t begin, int64_t end) {
    const std::unique_ptr<float[]> memory(new float[kWeightRows * args.inner]);
    for (int64_t column = begin * kWeightRows; column < std::min(end * kWeightRows, args.columns);
         column += kWeightRows) {
      const int64_t columns = std::min(kWeightRows, args.columns - column);
      FloatRow<float> rows[kWeightRows];
      for (int64_t j = 0; j < columns; ++j) {
        const auto source = row_of(column + j);
        float* target = memory.get() + j * args.inner;
        for_each_vector(args.inner, [&](int64_t k, auto n) {
          source.weight(k, n).store(target + k, static_cast<int>(n));
        });
        rows[j].data = target;
      }
      multiply_columns<T>(args, rows, nullptr, column, columns, x.data, x.stride);
    }
  });
}

template <class T, class F>
void multiply_quantised(const LinearArgs& args, const F& row_of) {
  if (args.rows > 4) {
    multiply_converted<T>(args, row_of);
  } else {
    multiply<T>(args, row_of);
  }
}

template <class W>
const W* weight_row(const LinearArgs& args, int64_t column) {
  return static_cast<const W*>(args.weight) + column * args.weight_stride;
}

template <class T>
void multiply_format(const LinearArgs& args) {
  switch (args.format) {
    case WeightFormat::Plain:
#ifdef __AVX512BF16__
      if (std::is_same_v<T, c10::BFloat16> && BFloat16Tiles::fit(args.rows)) {
        return BFloat16Tiles::run(args);
      }
#endif
      return multiply<T>(args, [&](int64_t j) { return FloatRow<T>(weight_row<T>(args, j)); });
    case WeightFormat::Int8:
      return multiply_quantised<T>(args,
                                   [&](int64_t j) { return Int8Row(weight_row<int8_t>(args, j)); });
    case WeightFormat::E4m3:
      return multiply_quantised<T>(args, [&](int64_t j) {
        return FloatRow<c10::Float8_e4m3fn>(weight_row<c10::Float8_e4m3fn>(args, j));
      });
    case WeightFormat::E5m2:
      return multiply_quantised<T>(args, [&](int64_t j) {
        return FloatRow<c10::Float8_e5m2>(weight_row<c10::Float8_e5m2>(args, j));
      });
    case WeightFormat::Int4: {
      const int64_t groups = args.inner / args.group;
      return multiply_quantised<T>(args, [&](int64_t j) {
        return Int4Row(weight_row<uint32_t>(args, j), args.scale + j * groups,
                       args.zero == nullptr ? nullptr : args.zero + j * groups, args.group);
      });
    }
  }
}

void linear(const LinearArgs& args) {
  dispatch_floating(args.dtype, [&](auto element) { multiply_format<decltype(element)>(args); });
}

} // namespace

OPENREG_REGISTER_VECTOR_KERNEL(linear_kernel, linear)

} // namespace at::openreg
