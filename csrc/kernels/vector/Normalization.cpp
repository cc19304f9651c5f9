#include "kernels/Normalization.h"

#include <cmath>

#include "kernels/vector/Elements.h"

namespace at::openreg {
namespace {

// Rows for one thread: below some 16k elements a second one costs more than it gives.
int64_t grain(int64_t width) {
  return std::max<int64_t>(1, (1 << 14) / std::max<int64_t>(width, 1));
}

template <class T>
void add_to_residual(T* residual, const T* x, int64_t width) {
  for_each_vector(width, [&](int64_t i, auto n) {
    write(residual + i, read(residual + i, n) + read(x + i, n), n);
  });
}

template <class T>
float sum_of_squares(const T* x, int64_t width) {
  Vec total[4] = {Vec(0), Vec(0), Vec(0), Vec(0)};
  int64_t i = 0;
  for (; i + 4 * kLanes <= width; i += 4 * kLanes) {
    for (int64_t j = 0; j < 4; ++j) {
      const Vec value = read(x + i + j * kLanes);
      total[j] = at::vec::fmadd(value, value, total[j]);
    }
  }
  for (; i < width; i += kLanes) {
    const Vec value = i + kLanes <= width ? read(x + i) : read(x + i, width - i);
    total[0] = at::vec::fmadd(value, value, total[0]);
  }
  return sum((total[0] + total[1]) + (total[2] + total[3]));
}

template <class T, class W>
void rms_norm_rows(const RmsNormArgs& args) {
  const int64_t width = args.x.width;
  const auto* weight = static_cast<const W*>(args.weight);
  parallel_for(args.x.count, grain(width), [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const T* x = args.x.row<T>(row);
      if (args.residual != nullptr) {
        T* residual = args.residual->row<T>(row);
        add_to_residual(residual, x, width);
        x = residual;
      }
      const float rstd = 1.0f / std::sqrt(sum_of_squares(x, width) / width + args.eps);
      if (args.rstd != nullptr) {
        args.rstd[row] = rstd;
      }
      const Vec scale(rstd);
      T* out = args.out.row<T>(row);
      for_each_vector(width, [&](int64_t i, auto n) {
        const Vec value = read(x + i, n) * scale;
        write(out + i, weight == nullptr ? value : value * read(weight + i, n), n);
      });
    }
  });
}

void rms_norm(const RmsNormArgs& args) {
  dispatch_floating(args.dtype, [&](auto element) {
    using T = decltype(element);
    if (args.weight_dtype == at::kFloat) {
      rms_norm_rows<T, float>(args);
    } else {
      rms_norm_rows<T, T>(args);
    }
  });
}

} // namespace

OPENREG_REGISTER_VECTOR_KERNEL(rms_norm_kernel, rms_norm)

} // namespace at::openreg
