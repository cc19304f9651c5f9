#include "kernels/Linear.h"

#include <ATen/ops/linear.h>

#include "ops/Operator.h"

namespace at::openreg {
namespace {

at::Tensor as_dense_last(const at::Tensor& tensor) {
  return tensor.size(-1) <= 1 || tensor.stride(-1) == 1 ? tensor : tensor.contiguous();
}

void check_linear(const char* op,
                  const at::Tensor& x,
                  const at::Tensor& weight,
                  int64_t inner,
                  const std::optional<at::Tensor>& bias) {
  check_floating(op, "x", x);
  check_dim(op, "weight", weight, 2);
  SameDeviceAs(op, x).check("weight", weight).check("bias", bias);
  TORCH_CHECK(x.dim() > 0 && x.size(-1) == inner, op, ": expected x of shape [..., ", inner,
              "] with weight ", weight.sizes(), ", got ", x.sizes());
  if (bias.has_value()) {
    check_shape(op, "bias", *bias, {weight.size(0)});
    check_dtype(op, "bias", *bias, {x.scalar_type()});
  }
}

LinearArgs linear_args(at::Tensor& out,
                       const at::Tensor& x,
                       const at::Tensor& weight,
                       const std::optional<at::Tensor>& bias) {
  return {
      .x = x.const_data_ptr(),
      .x_stride = x.stride(0),
      .weight = weight.const_data_ptr(),
      .weight_stride = weight.stride(0),
      .bias = bias ? bias->const_data_ptr() : nullptr,
      .out = out.data_ptr(),
      .out_stride = out.stride(0),
      .out_column_stride = 1,
      .rows = x.size(0),
      .columns = weight.size(0),
      .inner = x.size(1),
      .dtype = x.scalar_type(),
  };
}

void multiply(at::Tensor& out,
              const at::Tensor& x,
              const at::Tensor& weight,
              const std::optional<at::Tensor>& bias) {
  linear_kernel(linear_args(out, x, weight, bias));
}

c10::DimVector linear_sizes(const at::Tensor& x, const at::Tensor& weight) {
  c10::DimVector sizes(x.sizes());
  sizes.back() = weight.size(0);
  return sizes;
}

// x [rows, inner] and a result to match; the kernel sees matrices.
struct Matrices {
  Matrices(const at::Tensor& x, const at::Tensor& weight)
      : out(new_empty(x, linear_sizes(x, weight))),
        rows(as_dense_last(x.dim() == 2 ? x : x.reshape({-1, x.size(-1)}))),
        result(out.dim() == 2 ? out : out.view({-1, weight.size(0)})) {}

  at::Tensor out;
  at::Tensor rows;
  at::Tensor result;
};

at::Tensor
linear(const at::Tensor& x, const at::Tensor& weight, const std::optional<at::Tensor>& bias) {
  const char* op = "openreg::linear";
  check_dim(op, "weight", weight, 2);
  check_linear(op, x, weight, weight.size(1), bias);
  check_dtype(op, "weight", weight, {x.scalar_type()});
  const int64_t inner = weight.size(1);
  if (inner == 0 || !is_few_rows(x.numel() / inner, inner)) {
    return at::linear(x, weight, bias);
  }
  Matrices m(x, weight);
  run(x, op, multiply, m.result, m.rows, as_dense_last(weight),
      bias ? std::optional<at::Tensor>(bias->contiguous()) : bias);
  return m.out;
}

void multiply_scaled(at::Tensor& out,
                     const at::Tensor& x,
                     const at::Tensor& weight,
                     const at::Tensor& scale,
                     const std::optional<at::Tensor>& bias) {
  LinearArgs args = linear_args(out, x, weight, bias);
  args.format = weight.scalar_type() == at::kChar            ? WeightFormat::Int8
                : weight.scalar_type() == at::kFloat8_e4m3fn ? WeightFormat::E4m3
                                                             : WeightFormat::E5m2;
  args.scale = scale.const_data_ptr<float>();
  args.scale_stride = scale.numel() == 1 ? 0 : 1;
  linear_kernel(args);
}

at::Tensor as_floats(const at::Tensor& tensor) {
  return tensor.to(at::kFloat).contiguous();
}

at::Tensor scaled_linear(const char* op,
                         const at::Tensor& x,
                         const at::Tensor& weight,
                         const at::Tensor& scale,
                         const std::optional<at::Tensor>& bias) {
  check_linear(op, x, weight, weight.size(1), bias);
  SameDeviceAs(op, x).check("scale", scale);
  TORCH_CHECK(scale.numel() == 1 || scale.numel() == weight.size(0), op,
              ": expected scale of 1 or ", weight.size(0), " elements, got ", scale.sizes());
  Matrices m(x, weight);
  run(x, op, multiply_scaled, m.result, m.rows, as_dense_last(weight), as_floats(scale),
      bias ? std::optional<at::Tensor>(bias->contiguous()) : bias);
  return m.out;
}

at::Tensor int8_weight_linear(const at::Tensor& x,
                              const at::Tensor& weight,
                              const at::Tensor& scale,
                              const std::optional<at::Tensor>& bias) {
  const char* op = "openreg::int8_weight_linear";
  check_dim(op, "weight", weight, 2);
  check_dtype(op, "weight", weight, {at::kChar});
  return scaled_linear(op, x, weight, scale, bias);
}

at::Tensor fp8_linear(const at::Tensor& x,
                      const at::Tensor& weight,
                      const at::Tensor& scale,
                      const std::optional<at::Tensor>& bias) {
  const char* op = "openreg::fp8_linear";
  check_dim(op, "weight", weight, 2);
  check_dtype(op, "weight", weight, {at::kFloat8_e4m3fn, at::kFloat8_e5m2});
  return scaled_linear(op, x, weight, scale, bias);
}

void multiply_int4(at::Tensor& out,
                   const at::Tensor& x,
                   const at::Tensor& weight,
                   const at::Tensor& scale,
                   const std::optional<at::Tensor>& zero_point,
                   const std::optional<at::Tensor>& bias) {
  LinearArgs args = linear_args(out, x, weight, bias);
  args.format = WeightFormat::Int4;
  args.scale = scale.const_data_ptr<float>();
  args.zero = zero_point ? zero_point->const_data_ptr<int32_t>() : nullptr;
  args.group = x.size(1) / scale.size(1);
  linear_kernel(args);
}

at::Tensor int4_linear(const at::Tensor& x,
                       const at::Tensor& weight,
                       const at::Tensor& scale,
                       const std::optional<at::Tensor>& zero_point,
                       const std::optional<at::Tensor>& bias) {
  const char* op = "openreg::int4_linear";
  check_dim(op, "weight", weight, 2);
  check_dtype(op, "weight", weight, {at::kInt});
  const int64_t inner = 8 * weight.size(1);
  check_linear(op, x, weight, inner, bias);
  SameDeviceAs(op, x).check("scale", scale).check("zero_point", zero_point);
  check_dim(op, "scale", scale, 2);
  const int64_t groups = scale.size(1);
  TORCH_CHECK(scale.size(0) == weight.size(0) && groups > 0 && inner % (16 * groups) == 0, op,
              ": expected scale of shape [", weight.size(0), ", groups], groups of ", inner,
              " elements in multiples of 16, got ", scale.sizes());
  std::optional<at::Tensor> zero;
  if (zero_point.has_value()) {
    check_shape(op, "zero_point", *zero_point, scale.sizes());
    zero = zero_point->to(at::kInt).contiguous();
  }
  Matrices m(x, weight);
  run(x, op, multiply_int4, m.result, m.rows, as_dense_last(weight), as_floats(scale), zero,
      bias ? std::optional<at::Tensor>(bias->contiguous()) : bias);
  return m.out;
}

at::Tensor linear_shape(const at::Tensor& x, const at::Tensor& weight) {
  c10::SymDimVector sizes(x.sym_sizes());
  sizes.back() = weight.sym_size(0);
  return at::empty_symint(sizes, x.options());
}
at::Tensor
linear_meta(const at::Tensor& x, const at::Tensor& weight, const std::optional<at::Tensor>&) {
  return linear_shape(x, weight);
}
at::Tensor scaled_linear_meta(const at::Tensor& x,
                              const at::Tensor& weight,
                              const at::Tensor&,
                              const std::optional<at::Tensor>&) {
  return linear_shape(x, weight);
}
at::Tensor int4_linear_meta(const at::Tensor& x,
                            const at::Tensor& weight,
                            const at::Tensor&,
                            const std::optional<at::Tensor>&,
                            const std::optional<at::Tensor>&) {
  return linear_shape(x, weight);
}

TORCH_LIBRARY_FRAGMENT(openreg, m) {
  define(m, "linear(Tensor x, Tensor weight, Tensor? bias=None) -> Tensor", linear, linear_meta);
  define(m,
         "int8_weight_linear(Tensor x, Tensor weight, Tensor scale, Tensor? bias=None) -> Tensor",
         int8_weight_linear, scaled_linear_meta);
  define(m, "fp8_linear(Tensor x, Tensor weight, Tensor scale, Tensor? bias=None) -> Tensor",
         fp8_linear, scaled_linear_meta);
  define(m,
         "int4_linear(Tensor x, Tensor weight, Tensor scale, Tensor? zero_point=None, "
         "Tensor? bias=None) -> Tensor",
         int4_linear, int4_linear_meta);
}

} // namespace
} // namespace at::openreg
