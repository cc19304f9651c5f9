#include "kernels/Experts.h"

#include "ops/Operator.h"

namespace at::openreg {
namespace {

constexpr const char* kGrouped = "openreg::grouped_mm";
constexpr const char* kFused = "openreg::fused_moe";

void check_weight(const char* op,
                  const char* name,
                  const at::Tensor& weight,
                  const at::Tensor& x,
                  int64_t inner) {
  check_dim(op, name, weight, 3);
  check_dtype(op, name, weight, {x.scalar_type()});
  TORCH_CHECK(weight.size(2) == inner, op, ": expected ", name, " of shape [experts, out, ", inner,
              "], got ", weight.sizes());
}

at::Tensor grouped_mm(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& offsets) {
  check_floating(kGrouped, "x", x);
  check_dim(kGrouped, "x", x, 2);
  SameDeviceAs(kGrouped, x).check("weight", weight).check("offsets", offsets);
  check_weight(kGrouped, "weight", weight, x, x.size(1));
  check_dtype(kGrouped, "offsets", offsets, {at::kInt});
  check_shape(kGrouped, "offsets", offsets, {weight.size(0) + 1});
  at::Tensor out = new_empty(x, {x.size(0), weight.size(1)});
  run(x, kGrouped, multiply_groups, out, x.contiguous(), weight.contiguous(), offsets.contiguous());
  return out;
}

Activation activation_of(std::string_view name) {
  TORCH_CHECK_VALUE(name == "silu" || name == "gelu" || name == "gelu_tanh", kFused,
                    ": expected activation silu, gelu or gelu_tanh, got ", name);
  return name == "silu"   ? Activation::Silu
         : name == "gelu" ? Activation::Gelu
                          : Activation::GeluTanh;
}

at::Tensor fused_moe(const at::Tensor& x,
                     const at::Tensor& w13,
                     const at::Tensor& w2,
                     const at::Tensor& topk_weights,
                     const at::Tensor& topk_ids,
                     std::string_view activation) {
  check_floating(kFused, "x", x);
  check_dim(kFused, "x", x, 2);
  SameDeviceAs(kFused, x)
      .check("w13", w13)
      .check("w2", w2)
      .check("topk_weights", topk_weights)
      .check("topk_ids", topk_ids);
  check_weight(kFused, "w13", w13, x, x.size(1));
  check_dim(kFused, "w2", w2, 3);
  check_weight(kFused, "w2", w2, x, w13.size(1) / 2);
  TORCH_CHECK(w13.size(1) % 2 == 0 && w2.size(0) == w13.size(0) && w2.size(1) == x.size(1), kFused,
              ": expected w13 [experts, 2 * intermediate, ", x.size(1), "] and w2 [experts, ",
              x.size(1), ", intermediate], got ", w13.sizes(), " and ", w2.sizes());
  check_dim(kFused, "topk_ids", topk_ids, 2);
  check_dtype(kFused, "topk_ids", topk_ids, {at::kInt, at::kLong});
  check_shape(kFused, "topk_ids", topk_ids, {x.size(0), topk_ids.size(1)});
  check_dtype(kFused, "topk_weights", topk_weights, {at::kFloat});
  check_shape(kFused, "topk_weights", topk_weights, topk_ids.sizes());
  const Activation how = activation_of(activation);
  at::Tensor out = new_empty(x, x.sizes());
  run(x, kFused, apply_experts, out, x.contiguous(), w13.contiguous(), w2.contiguous(),
      topk_weights.contiguous(), topk_ids.contiguous(), how);
  return out;
}

at::Tensor grouped_mm_meta(const at::Tensor& x, const at::Tensor& weight, const at::Tensor&) {
  return at::empty_symint({x.sym_size(0), weight.sym_size(1)}, x.options());
}
at::Tensor fused_moe_meta(const at::Tensor& x,
                          const at::Tensor&,
                          const at::Tensor&,
                          const at::Tensor&,
                          const at::Tensor&,
                          std::string_view) {
  return at::empty_symint(x.sym_sizes(), x.options());
}

TORCH_LIBRARY_FRAGMENT(openreg, m) {
  define(m, "grouped_mm(Tensor x, Tensor weight, Tensor offsets) -> Tensor", grouped_mm,
         grouped_mm_meta);
  define(m,
         "fused_moe(Tensor x, Tensor w13, Tensor w2, Tensor topk_weights, Tensor topk_ids, "
         "str activation=\"silu\") -> Tensor",
         fused_moe, fused_moe_meta);
}

} // namespace
} // namespace at::openreg
