#pragma once

// Products of more than a few rows of bfloat16 with a weight in rows: pairs of
// products in one instruction. Rows of x are the lanes of vectors, so that a lane's
// sum is a result: to add up lanes costs too much for short rows. For the sources of
// this folder only, see Note [Vector kernels].

#ifdef __AVX512BF16__

#include <algorithm>
#include <bit>
#include <cstring>
#include <memory>

#include "kernels/Linear.h"
#include "kernels/vector/Elements.h"

namespace at::openreg {
namespace {

class BFloat16Tiles {
 public:
  // Whether this is the faster way: a lane without a row of x works in vain.
  static bool fit(int64_t rows) {
    return 5 * rows >= 4 * vectors_of(rows) * kLanes;
  }

  static void run(const LinearArgs& args) {
    for (int64_t first = 0; first < args.rows; first += kPassRows) {
      BFloat16Tiles(args, first, std::min(args.rows - first, kPassRows)).run();
    }
  }

 private:
  static constexpr int64_t kMostVectors = 4;
  static constexpr int64_t kPassRows = kMostVectors * kLanes;
  static constexpr int64_t kUnit = 48; // columns, a unit of work: whole tiles of any height
  static constexpr int64_t kAccumulators = 24;
  static constexpr int64_t kLinePairs = kCacheLine / 4;

  static int64_t vectors_of(int64_t rows) {
    return (rows + kLanes - 1) / kLanes;
  }

  BFloat16Tiles(const LinearArgs& args, int64_t first, int64_t rows)
      : args_(args), first_(first), rows_(rows), vectors_(vectors_of(rows)),
        pairs_((args.inner + 1) / 2), x_(new float[pairs_ * vectors_ * kLanes]) {
    for (int64_t vector = 0; vector < vectors_; ++vector) {
      pack(vector);
    }
  }

  void run() const {
    switch (vectors_) {
      case 1:
        return run_vectors<1>();
      case 2:
        return run_vectors<2>();
      case 3:
        return run_vectors<3>();
      default:
        return run_vectors<4>();
    }
  }

  // Pairs of kLanes rows side by side: [pair][vector][row]. A pair moves as a float.
  void pack(int64_t vector) {
    const int64_t row_length = vectors_ * kLanes;
    const auto* x =
        static_cast<const c10::BFloat16*>(args_.x) + (first_ + vector * kLanes) * args_.x_stride;
    float* packed = x_.get() + vector * kLanes;
    const int64_t rows = std::min(rows_ - vector * kLanes, kLanes);
    float block[kLanes * kLanes] = {};
    for (int64_t pair = 0; pair < pairs_; pair += kLanes) {
      const int64_t count = std::min(pairs_ - pair, kLanes);
      const int64_t elements = std::min(args_.inner - 2 * pair, 2 * kLanes);
      const auto mask = static_cast<__mmask32>((uint64_t{1} << elements) - 1);
      for (int64_t row = 0; row < rows; ++row) {
        _mm512_storeu_si512(block + row * kLanes,
                            _mm512_maskz_loadu_epi16(mask, x + row * args_.x_stride + 2 * pair));
      }
      at::vec::transpose_mxn<float>(block, kLanes, packed + pair * row_length, row_length, kLanes,
                                    static_cast<int>(count));
    }
  }

  template <int64_t kVectors>
  void run_vectors() const {
    constexpr int64_t kColumns = std::min<int64_t>(kAccumulators / kVectors, 12);
    static_assert(kUnit % kColumns == 0);
    const int64_t units = (args_.columns + kUnit - 1) / kUnit;
    const int64_t grain = std::max<int64_t>(1, (1 << 16) / (kUnit * args_.inner + 1));
    parallel_for(units, grain, [&](int64_t begin, int64_t end) {
      for (int64_t unit = begin; unit < end; ++unit) {
        alignas(64) float sums[kUnit * kPassRows];
        const int64_t column = unit * kUnit;
        const int64_t columns = std::min(kUnit, args_.columns - column);
        for (int64_t j = 0; j < columns; j += kColumns) {
          multiply<kVectors, kColumns>(column + j, sums + j * kVectors * kLanes);
        }
        store(sums, column, columns);
      }
    });
  }

  const c10::BFloat16* weight_row(int64_t column) const {
    return static_cast<const c10::BFloat16*>(args_.weight) +
           std::min(column, args_.columns - 1) * args_.weight_stride;
  }

  // sums [kColumns][kVectors * kLanes]: of each row of the weight from `column` on with
  // all rows of x. Meanwhile the rows behind them are asked for.
  template <int64_t kVectors, int64_t kColumns>
  void multiply(int64_t column, float* sums) const {
    const c10::BFloat16* weight[kColumns];
    unrolled<kColumns>([&](auto j) { weight[j] = weight_row(column + j); });
    const auto* next = reinterpret_cast<const char*>(weight_row(column + kColumns));
    const float* x = x_.get();
    __m512 total[kColumns][kVectors];
    unrolled<kColumns>(
        [&](auto j) { unrolled<kVectors>([&](auto v) { total[j][v] = _mm512_setzero_ps(); }); });
    const auto step = [&](int64_t pair, const auto& pair_of) {
      __m512bh factor[kVectors];
      unrolled<kVectors>([&](auto v) {
        factor[v] = std::bit_cast<__m512bh>(_mm512_loadu_ps(x + (pair * kVectors + v) * kLanes));
      });
      unrolled<kColumns>([&](auto j) {
        const auto value = std::bit_cast<__m512bh>(_mm512_set1_epi32(pair_of(weight[j])));
        unrolled<kVectors>(
            [&](auto v) { total[j][v] = _mm512_dpbf16_ps(total[j][v], factor[v], value); });
      });
    };
    const int64_t whole = args_.inner / 2;
    for (int64_t pair = 0; pair < whole;) {
      for (int64_t j = 0; j < kColumns; ++j) {
        __builtin_prefetch(next, 0, kSecondLevel);
        next += kCacheLine;
      }
      const int64_t end = std::min(pair + kLinePairs, whole);
      for (; pair < end; ++pair) {
        step(pair, [pair](const c10::BFloat16* row) {
          int value;
          std::memcpy(&value, row + 2 * pair, sizeof(value));
          return value;
        });
      }
    }
    if (whole < pairs_) {
      step(whole, [whole](const c10::BFloat16* row) { return int{row[2 * whole].x}; });
    }
    unrolled<kColumns>([&](auto j) {
      unrolled<kVectors>(
          [&](auto v) { _mm512_storeu_ps(sums + (j * kVectors + v) * kLanes, total[j][v]); });
    });
  }

  // out = sums [columns][vectors * kLanes], turned, + bias
  void store(const float* sums, int64_t column, int64_t columns) const {
    const auto* bias = static_cast<const c10::BFloat16*>(args_.bias);
    auto* out = static_cast<c10::BFloat16*>(args_.out) + column * args_.out_column_stride;
    float turned[kLanes * kLanes];
    for (int64_t begin = 0; begin < columns; begin += kLanes) {
      const int64_t count = std::min(columns - begin, kLanes);
      const Vec added = bias == nullptr ? Vec(0.0f) : read(bias + column + begin, count);
      for (int64_t row = 0; row < rows_; ++row) {
        const int64_t lane = row % kLanes;
        if (lane == 0) {
          at::vec::transpose_mxn<float>(sums + begin * vectors_ * kLanes + row, vectors_ * kLanes,
                                        turned, kLanes, static_cast<int>(count), kLanes);
        }
        const Vec values = Vec::loadu(turned + lane * kLanes) + added;
        c10::BFloat16* target =
            out + (first_ + row) * args_.out_stride + begin * args_.out_column_stride;
        if (args_.out_column_stride == 1 && count == kLanes) {
          write(target, values);
        } else {
          c10::BFloat16 elements[kLanes];
          write(elements, values);
          for (int64_t j = 0; j < count; ++j) {
            target[j * args_.out_column_stride] = elements[j];
          }
        }
      }
    }
  }

  const LinearArgs& args_;
  int64_t first_; // row
  int64_t rows_;
  int64_t vectors_; // of rows
  int64_t pairs_;   // of elements of a row, the last one filled up with zero
  std::unique_ptr<float[]> x_;
};

} // namespace
} // namespace at::openreg

#endif
