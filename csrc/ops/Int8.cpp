#include "kernels/Int8.h"

#include "ops/Operator.h"

namespace at::openreg {
namespace {

constexpr const char* kQuantize = "openreg::quantize_int8";
constexpr const char* kLinear = "openreg::int8_linear";

void quantize(at::Tensor& values, at::Tensor& scales, const at::Tensor& x) {
  quantize_int8_kernel(
      {Rows(x), values.data_ptr<int8_t>(), scales.data_ptr<float>(), x.scalar_type()});
}

std::tuple<at::Tensor, at::Tensor> quantize_int8(const at::Tensor& x) {
  check_floating(kQuantize, "x", x);
  TORCH_CHECK(x.dim() > 0, kQuantize, ": expected x with at least one dimension, got a scalar");
  c10::DimVector sizes(x.sizes());
  sizes.back() = 1;
  at::Tensor values = new_empty(x, x.sizes(), at::kChar);
  at::Tensor scales = new_empty(x, sizes, at::kFloat);
  run(x, kQuantize, quantize, values, scales, as_rows(x));
  return {values, scales};
}

void multiply(at::Tensor& out,
              const at::Tensor& x,
              const at::Tensor& x_scale,
              const at::Tensor& weight,
              const at::Tensor& weight_scale,
              const at::Tensor& bias) {
  int8_linear_kernel({
      .x = x.const_data_ptr<int8_t>(),
      .x_scale = x_scale.const_data_ptr<float>(),
      .x_scale_stride = x_scale.numel() == 1 ? 0 : 1,
      .weight = weight.const_data_ptr<int8_t>(),
      .weight_scale = weight_scale.const_data_ptr<float>(),
      .weight_scale_stride = weight_scale.numel() == 1 ? 0 : 1,
      .bias = bias.defined() ? bias.const_data_ptr<float>() : nullptr,
      .out = out.data_ptr(),
      .rows = x.size(0),
      .columns = weight.size(0),
      .inner = x.size(1),
      .dtype = out.scalar_type(),
  });
}

void check_scale(const char* name, const at::Tensor& scale, int64_t count) {
  check_dtype(kLinear, name, scale, {at::kFloat});
  TORCH_CHECK(scale.numel() == 1 || scale.numel() == count, kLinear, ": expected ", name,
              " of 1 or ", count, " elements, got ", scale.sizes());
}

at::Tensor int8_linear(const at::Tensor& x,
                       const at::Tensor& x_scale,
                       const at::Tensor& weight,
                       const at::Tensor& weight_scale,
                       const std::optional<at::Tensor>& bias,
                       at::ScalarType out_dtype) {
  check_dtype(kLinear, "x", x, {at::kChar});
  check_dtype(kLinear, "weight", weight, {at::kChar});
  check_dim(kLinear, "x", x, 2);
  check_dim(kLinear, "weight", weight, 2);
  SameDeviceAs(kLinear, x)
      .check("x_scale", x_scale)
      .check("weight", weight)
      .check("weight_scale", weight_scale)
      .check("bias", bias);
  check_shape(kLinear, "weight", weight, {weight.size(0), x.size(1)});
  check_scale("x_scale", x_scale, x.size(0));
  check_scale("weight_scale", weight_scale, weight.size(0));
  if (bias.has_value()) {
    check_shape(kLinear, "bias", *bias, {weight.size(0)});
  }
  TORCH_CHECK_TYPE(out_dtype == at::kFloat || out_dtype == at::kBFloat16 || out_dtype == at::kHalf,
                   kLinear, ": expected out_dtype Float, BFloat16 or Half, got ", out_dtype);
  at::Tensor out = new_empty(x, {x.size(0), weight.size(0)}, out_dtype);
  run(x, kLinear, multiply, out, x.contiguous(), x_scale.contiguous(), weight.contiguous(),
      weight_scale.contiguous(), bias ? bias->to(at::kFloat).contiguous() : at::Tensor());
  return out;
}

std::tuple<at::Tensor, at::Tensor> quantize_int8_meta(const at::Tensor& x) {
  c10::SymDimVector sizes(x.sym_sizes());
  sizes.back() = 1;
  return {at::empty_symint(x.sym_sizes(), x.options().dtype(at::kChar)),
          at::empty_symint(sizes, x.options().dtype(at::kFloat))};
}
at::Tensor int8_linear_meta(const at::Tensor& x,
                            const at::Tensor&,
                            const at::Tensor& weight,
                            const at::Tensor&,
                            const std::optional<at::Tensor>&,
                            at::ScalarType out_dtype) {
  return at::empty_symint({x.sym_size(0), weight.sym_size(0)}, x.options().dtype(out_dtype));
}

TORCH_LIBRARY_FRAGMENT(openreg, m) {
  define(m, "quantize_int8(Tensor x) -> (Tensor values, Tensor scales)", quantize_int8,
         quantize_int8_meta);
  define(m,
         "int8_linear(Tensor x, Tensor x_scale, Tensor weight, Tensor weight_scale, "
         "Tensor? bias=None, *, ScalarType out_dtype=float) -> Tensor",
         int8_linear, int8_linear_meta);
}

} // namespace
} // namespace at::openreg
