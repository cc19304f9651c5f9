#include "kernels/Int8.h"

#include <algorithm>
#include <cmath>

#include "kernels/vector/Elements.h"

namespace at::openreg {
namespace {

template <class T>
void quantize_rows(const QuantizeInt8Args& args) {
  const int64_t width = args.x.width;
  const int64_t grain = std::max<int64_t>(1, (1 << 14) / std::max<int64_t>(width, 1));
  parallel_for(args.x.count, grain, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const T* x = args.x.row<T>(row);
      Vec largest(0.0f);
      for_each_vector(width, [&](int64_t i, auto n) {
        largest = at::vec::maximum(largest, read(x + i, n).abs());
      });
      const float scale = std::max(max(largest), 1e-10f) / 127;
      args.scales[row] = scale;
      int8_t* values = args.values + row * width;
      for_each_vector(width, [&](int64_t i, auto n) {
        alignas(64) float buffer[kLanes];
        const Vec value = (read(x + i, n) / Vec(scale)).round();
        at::vec::clamp(value, Vec(-127.0f), Vec(127.0f)).store(buffer);
        for (int64_t j = 0; j < n; ++j) {
          values[i + j] = static_cast<int8_t>(buffer[j]);
        }
      });
    }
  });
}

void quantize_int8(const QuantizeInt8Args& args) {
  dispatch_floating(args.dtype, [&](auto element) { quantize_rows<decltype(element)>(args); });
}

// The compiler turns this into sums of pairs of products, an instruction each.
int32_t dot(const int8_t* x, const int8_t* weight, int64_t inner) {
  int32_t sum = 0;
  for (int64_t k = 0; k < inner; ++k) {
    sum += static_cast<int32_t>(x[k]) * static_cast<int32_t>(weight[k]);
  }
  return sum;
}

template <class T>
void multiply(const Int8LinearArgs& args) {
  const int64_t grain = std::max<int64_t>(1, (1 << 16) / (args.rows * args.inner + 1));
  parallel_for(args.columns, grain, [&](int64_t begin, int64_t end) {
    for (int64_t column = begin; column < end; ++column) {
      const int8_t* weight = args.weight + column * args.inner;
      const float scale = args.weight_scale[column * args.weight_scale_stride];
      const float bias = args.bias == nullptr ? 0.0f : args.bias[column];
      for (int64_t row = 0; row < args.rows; ++row) {
        const auto sum = static_cast<float>(dot(args.x + row * args.inner, weight, args.inner));
        const float value = sum * args.x_scale[row * args.x_scale_stride] * scale + bias;
        static_cast<T*>(args.out)[row * args.columns + column] = static_cast<T>(value);
      }
    }
  });
}

void int8_linear(const Int8LinearArgs& args) {
  dispatch_floating(args.dtype, [&](auto element) { multiply<decltype(element)>(args); });
}

} // namespace

OPENREG_REGISTER_VECTOR_KERNEL(quantize_int8_kernel, quantize_int8)
OPENREG_REGISTER_VECTOR_KERNEL(int8_linear_kernel, int8_linear)

} // namespace at::openreg
