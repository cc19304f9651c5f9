#include "kernels/Experts.h"

#include <ATen/Dispatch.h>

#include <algorithm>
#include <memory>
#include <vector>

#include "kernels/Linear.h"

namespace at::openreg {
namespace {

// out [rows, columns] = x [rows, inner] * weight[expert]^T, all dense.
void multiply(void* out, const void* x, int64_t rows, const at::Tensor& weight, int64_t expert) {
  const int64_t columns = weight.size(1);
  const int64_t inner = weight.size(2);
  const char* first = static_cast<const char*>(weight.const_data_ptr());
  linear_kernel({
      .x = x,
      .x_stride = inner,
      .weight = first + expert * columns * inner * weight.itemsize(),
      .weight_stride = inner,
      .bias = nullptr,
      .out = out,
      .out_stride = columns,
      .out_column_stride = 1,
      .rows = rows,
      .columns = columns,
      .inner = inner,
      .dtype = weight.scalar_type(),
  });
}

void gate(void* out, void* x, int64_t rows, int64_t width, at::ScalarType dtype, Activation how) {
  gated_activation_kernel({Rows(x, rows, 2 * width), Rows(out, rows, width), dtype, how});
}

// Where a token's row takes part: choice `choice` of `token`.
struct Place {
  int64_t token;
  int64_t choice;
};

template <class Id>
std::vector<std::vector<Place>> places_of_experts(const at::Tensor& ids, int64_t experts) {
  std::vector<std::vector<Place>> places(experts);
  const Id* id = ids.const_data_ptr<Id>();
  for (int64_t token = 0; token < ids.size(0); ++token) {
    for (int64_t choice = 0; choice < ids.size(1); ++choice, ++id) {
      TORCH_CHECK_INDEX(*id < experts, "openreg::fused_moe: expected topk_ids below ", experts,
                        ", the experts, got ", *id);
      if (*id >= 0) {
        places[*id].push_back({token, choice});
      }
    }
  }
  return places;
}

} // namespace

void multiply_groups(at::Tensor& out,
                     const at::Tensor& x,
                     const at::Tensor& weight,
                     const at::Tensor& offsets) {
  const int32_t* bounds = offsets.const_data_ptr<int32_t>();
  const int64_t experts = weight.size(0);
  const int64_t tokens = x.size(0);
  for (int64_t expert = 0; expert <= experts; ++expert) {
    const int64_t least = expert == 0 ? 0 : bounds[expert - 1];
    const int64_t most = expert == 0 ? 0 : tokens;
    const bool is_right = bounds[expert] >= least && bounds[expert] <= most &&
                          (expert < experts || bounds[expert] == tokens);
    TORCH_CHECK_INDEX(is_right, "openreg::grouped_mm: expected offsets that rise from 0 to ",
                      tokens, ", the tokens, got ", bounds[expert], " at ", expert);
  }
  const int64_t x_bytes = x.size(1) * x.itemsize();
  const int64_t out_bytes = out.size(1) * out.itemsize();
  for (int64_t expert = 0; expert < experts; ++expert) {
    const int64_t begin = bounds[expert];
    const int64_t rows = bounds[expert + 1] - begin;
    if (rows > 0) {
      multiply(static_cast<char*>(out.data_ptr()) + begin * out_bytes,
               static_cast<const char*>(x.const_data_ptr()) + begin * x_bytes, rows, weight,
               expert);
    }
  }
}

void apply_experts(at::Tensor& out,
                   const at::Tensor& x,
                   const at::Tensor& w13,
                   const at::Tensor& w2,
                   const at::Tensor& weights,
                   const at::Tensor& ids,
                   Activation activation) {
  const int64_t hidden = x.size(1);
  const int64_t width = w2.size(2);
  const auto places = ids.scalar_type() == at::kInt ? places_of_experts<int32_t>(ids, w13.size(0))
                                                    : places_of_experts<int64_t>(ids, w13.size(0));
  size_t most = 0;
  for (const auto& of_expert : places) {
    most = std::max(most, of_expert.size());
  }
  const float* weight = weights.const_data_ptr<float>();
  AT_DISPATCH_FLOATING_TYPES_AND2(
      at::kHalf, at::kBFloat16, x.scalar_type(), "openreg::fused_moe", [&] {
        const std::unique_ptr<scalar_t[]> memory(new scalar_t[most * (2 * hidden + 3 * width)]);
        scalar_t* gathered = memory.get();
        scalar_t* both = gathered + most * hidden;
        scalar_t* gated = both + most * 2 * width;
        scalar_t* results = gated + most * width;
        const std::unique_ptr<float[]> sums(new float[x.numel()]());
        const scalar_t* source = x.const_data_ptr<scalar_t>();
        for (size_t expert = 0; expert < places.size(); ++expert) {
          const auto& of_expert = places[expert];
          const auto rows = static_cast<int64_t>(of_expert.size());
          if (rows == 0) {
            continue;
          }
          for (int64_t row = 0; row < rows; ++row) {
            std::copy_n(source + of_expert[row].token * hidden, hidden, gathered + row * hidden);
          }
          multiply(both, gathered, rows, w13, expert);
          gate(gated, both, rows, width, x.scalar_type(), activation);
          multiply(results, gated, rows, w2, expert);
          for (int64_t row = 0; row < rows; ++row) {
            const Place place = of_expert[row];
            const float factor = weight[place.token * ids.size(1) + place.choice];
            float* sum = sums.get() + place.token * hidden;
            const scalar_t* result = results + row * hidden;
            for (int64_t i = 0; i < hidden; ++i) {
              sum[i] += factor * static_cast<float>(result[i]);
            }
          }
        }
        std::copy_n(sums.get(), x.numel(), out.mutable_data_ptr<scalar_t>());
      });
}

} // namespace at::openreg
