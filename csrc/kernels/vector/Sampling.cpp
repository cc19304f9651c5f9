#include "kernels/Sampling.h"

#include <algorithm>
#include <vector>

#include "kernels/vector/Elements.h"

namespace at::openreg {
namespace {

constexpr int64_t kBlock = 1024; // elements whose sum is kept

constexpr float kNothing = -std::numeric_limits<float>::infinity();

// n logits without what has no place in a sum: NaN is never drawn, nor what lies behind
// them; infinity is the largest number.
template <class T, class N>
Vec read_logits(const T* p, N n) {
  const Vec nothing(kNothing);
  const Vec value = Vec::set(nothing, read(p, n), n);
  return at::vec::minimum(Vec::blendv(nothing, value, value == value),
                          Vec(std::numeric_limits<float>::max()));
}

template <class T>
float largest_of(const T* logits, int64_t width) {
  Vec largest(kNothing);
  for_each_vector(width, [&](int64_t i, auto n) {
    largest = at::vec::maximum(largest, read_logits(logits + i, n));
  });
  return max(largest);
}

// weights = exp(logits - largest); returns their sum.
template <class T>
double weigh(float* weights, const T* logits, int64_t size, float largest) {
  Vec total(0.0f);
  for_each_vector(size, [&](int64_t i, auto n) {
    const Vec weight = (read_logits(logits + i, n) - Vec(largest)).exp_u20();
    weight.store(weights + i, n);
    total = total + weight;
  });
  return sum(total);
}

// The first token whose weight and those before it sum to more than `uniform` of all.
template <class T>
int64_t draw(const T* logits, int64_t width, double uniform, std::vector<double>& sums) {
  const float largest = largest_of(logits, width);
  if (largest == kNothing) {
    return 0;
  }
  float weights[kBlock];
  double total = 0;
  for (size_t block = 0; block < sums.size(); ++block) {
    const int64_t begin = block * kBlock;
    total += weigh(weights, logits + begin, std::min(kBlock, width - begin), largest);
    sums[block] = total;
  }
  // A product rounded up to the total would end behind the last token.
  const auto block = std::min(std::upper_bound(sums.begin(), sums.end(), uniform * total),
                              std::lower_bound(sums.begin(), sums.end(), total));
  const int64_t begin = (block - sums.begin()) * kBlock;
  const int64_t size = std::min(kBlock, width - begin);
  weigh(weights, logits + begin, size, largest);
  double rest = uniform * total - (block == sums.begin() ? 0 : *(block - 1));
  int64_t token = 0;
  for (int64_t i = 0; i < size; ++i) {
    if (weights[i] > 0) {
      token = i;
      rest -= weights[i];
      if (rest < 0) {
        break;
      }
    }
  }
  return begin + token;
}

void sample(const SampleArgs& args) {
  dispatch_floating(args.dtype, [&](auto element) {
    using T = decltype(element);
    const int64_t width = args.logits.width;
    parallel_for(args.logits.count, 1, [&](int64_t begin, int64_t end) {
      std::vector<double> sums((width + kBlock - 1) / kBlock);
      for (int64_t row = begin; row < end; ++row) {
        args.tokens[row] = draw(args.logits.row<T>(row), width, args.uniform[row], sums);
      }
    });
  });
}

} // namespace

OPENREG_REGISTER_VECTOR_KERNEL(sample_kernel, sample)

} // namespace at::openreg
