#include "kernels/Sampling.h"

#include <algorithm>
#include <vector>

#include "kernels/vector/Elements.h"

namespace at::openreg {
namespace {

constexpr int64_t kBlock = 1024; // elements whose sum is kept

// Logits without what has no place in a sum: NaN is never drawn, infinity always.
template <class T, class N>
Vec read_logits(const T* p, N n) {
  const Vec value = read(p, n);
  const Vec least(-std::numeric_limits<float>::infinity());
  return at::vec::minimum(Vec::blendv(least, value, value == value),
                          Vec(std::numeric_limits<float>::max()));
}

template <class T>
float largest_of(const T* logits, int64_t width) {
  float largest = -std::numeric_limits<float>::infinity();
  Vec vectors(largest);
  int64_t i = 0;
  for (; i + kLanes <= width; i += kLanes) {
    vectors = at::vec::maximum(vectors,
                               read_logits(logits + i, std::integral_constant<int64_t, kLanes>()));
  }
  for (; i < width; ++i) {
    const auto value = static_cast<float>(logits[i]);
    largest = value > largest ? std::min(value, std::numeric_limits<float>::max()) : largest;
  }
  return std::max(largest, max(vectors));
}

// weights = exp(logits - largest); returns their sum.
template <class T>
double weigh(float* weights, const T* logits, int64_t size, float largest) {
  for_each_vector(size, [&](int64_t i, auto n) {
    (read_logits(logits + i, n) - Vec(largest)).exp_u20().store(weights + i, n);
  });
  Vec total(0);
  for_each_vector(size, [&](int64_t i, auto n) { total = total + read(weights + i, n); });
  return sum(total);
}

// The first token whose weight and those before it sum to more than `uniform` of all.
template <class T>
int64_t draw(const T* logits, int64_t width, double uniform, std::vector<double>& sums) {
  const float largest = largest_of(logits, width);
  if (largest == -std::numeric_limits<float>::infinity()) {
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
