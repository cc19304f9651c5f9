#include "kernels/Sampling.h"

#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

namespace at::openreg {
namespace {

constexpr float kNothing = -std::numeric_limits<float>::infinity();

template <class F>
void dispatch_element(const at::Tensor& tensor, const F& op) {
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, tensor.scalar_type(), "sampling",
                                  [&] { op(scalar_t()); });
}

// The k-th largest of `values`, whose order changes.
float kth_largest(std::vector<float>& values, int64_t k) {
  const auto kth = values.begin() + (k - 1);
  std::nth_element(values.begin(), kth, values.end(), std::greater<float>());
  return *kth;
}

// The smallest value to keep of a descending order's start that holds the mass p.
// `candidates` are what top-k left; a heap yields the largest of them one by one,
// since mostly few are needed.
float nucleus_limit(std::vector<float>& candidates, float p) {
  const float largest = *std::max_element(candidates.begin(), candidates.end());
  double total = 0;
  for (const float value : candidates) {
    total += std::exp(value - largest);
  }
  std::make_heap(candidates.begin(), candidates.end());
  double mass = 0;
  float limit = largest;
  for (auto end = candidates.end(); end != candidates.begin(); --end) {
    // The next is kept if those before it do not reach p already.
    if (end != candidates.end() && mass >= p * total) {
      break;
    }
    std::pop_heap(candidates.begin(), end);
    limit = *(end - 1);
    mass += std::exp(limit - largest);
  }
  return limit;
}

int64_t integer_of(const at::Tensor& tensor, int64_t row) {
  return tensor.scalar_type() == at::kLong ? tensor.const_data_ptr<int64_t>()[row]
                                           : tensor.const_data_ptr<int32_t>()[row];
}

} // namespace

void keep_top(at::Tensor& out, const at::Tensor& logits, const at::Tensor& k, const at::Tensor& p) {
  const int64_t rows = logits.size(0);
  const int64_t width = logits.size(1);
  dispatch_element(logits, [&](auto element) {
    using T = decltype(element);
    at::parallel_for(0, rows, 1, [&](int64_t begin, int64_t end) {
      std::vector<float> values;
      for (int64_t row = begin; row < end; ++row) {
        const T* source = logits.const_data_ptr<T>() + row * logits.stride(0);
        T* target = out.data_ptr<T>() + row * width;
        float limit = kNothing;
        const int64_t count =
            k.defined() ? std::clamp<int64_t>(integer_of(k, row), 1, width) : width;
        const float mass = p.defined() ? p.const_data_ptr<float>()[row] : 1.0f;
        if (count < width) {
          values.assign(source, source + width);
          limit = kth_largest(values, count);
        }
        if (mass < 1.0f) {
          values.clear();
          for (int64_t i = 0; i < width; ++i) {
            const auto value = static_cast<float>(source[i]);
            if (value >= limit) {
              values.push_back(value);
            }
          }
          if (!values.empty()) {
            limit = std::max(limit, nucleus_limit(values, mass));
          }
        }
        for (int64_t i = 0; i < width; ++i) {
          // Written so that NaN passes through.
          target[i] = static_cast<float>(source[i]) < limit ? static_cast<T>(kNothing) : source[i];
        }
      }
    });
  });
}

void route(at::Tensor& weights, at::Tensor& ids, const at::Tensor& gating, bool renormalize) {
  const int64_t experts = gating.size(1);
  const int64_t top = weights.size(1);
  dispatch_element(gating, [&](auto element) {
    using T = decltype(element);
    at::parallel_for(0, gating.size(0), 64, [&](int64_t begin, int64_t end) {
      std::vector<float> scores(experts);
      std::vector<int32_t> order(experts);
      for (int64_t row = begin; row < end; ++row) {
        const T* source = gating.const_data_ptr<T>() + row * gating.stride(0);
        std::copy_n(source, experts, scores.begin());
        const float largest = *std::max_element(scores.begin(), scores.end());
        float total = 0;
        for (float& score : scores) {
          score = std::exp(score - largest);
          total += score;
        }
        std::iota(order.begin(), order.end(), 0);
        // Of equal scores the first expert is taken.
        std::partial_sort(order.begin(), order.begin() + top, order.end(),
                          [&](int32_t a, int32_t b) {
                            return scores[a] > scores[b] || (scores[a] == scores[b] && a < b);
                          });
        if (renormalize) {
          total = 0;
          for (int64_t i = 0; i < top; ++i) {
            total += scores[order[i]];
          }
        }
        for (int64_t i = 0; i < top; ++i) {
          weights.data_ptr<float>()[row * top + i] = scores[order[i]] / total;
          ids.data_ptr<int32_t>()[row * top + i] = order[i];
        }
      }
    });
  });
}

} // namespace at::openreg
