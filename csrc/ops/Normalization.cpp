#include "kernels/Normalization.h"

#include "ops/Operator.h"

namespace at::openreg {
namespace {

void check(const char* op,
           const at::Tensor& x,
           const std::optional<at::Tensor>& weight,
           const at::Tensor& out) {
  TORCH_CHECK(x.dim() > 0, op, ": expected x with at least one dimension, got a scalar");
  check_floating(op, "x", x);
  SameDeviceAs(op, x).check("weight", weight).check("out", out);
  check_dtype(op, "out", out, {x.scalar_type()});
  check_shape(op, "out", out, x.sizes());
  if (weight.has_value()) {
    check_shape(op, "weight", *weight, {x.size(-1)});
    check_dense_last(op, "weight", *weight);
    check_dtype(op, "weight", *weight, {x.scalar_type(), at::kFloat});
  }
}

void normalize(at::Tensor& out,
               const at::Tensor& x,
               at::Tensor& residual,
               const std::optional<at::Tensor>& weight,
               double eps) {
  const std::optional<Rows> sum = residual.defined() ? std::optional<Rows>(residual) : std::nullopt;
  rms_norm_kernel({
      .x = Rows(x),
      .out = Rows(out),
      .residual = sum ? &*sum : nullptr,
      .weight = weight ? weight->const_data_ptr() : nullptr,
      .dtype = x.scalar_type(),
      .weight_dtype = weight ? weight->scalar_type() : at::kFloat,
      .eps = static_cast<float>(eps),
  });
}

void rms_norm_out(const at::Tensor& x,
                  const std::optional<at::Tensor>& weight,
                  double eps,
                  at::Tensor& out) {
  check("openreg::rms_norm", x, weight, out);
  check_rows("openreg::rms_norm", "out", out);
  at::Tensor no_residual;
  run(x, "openreg::rms_norm", normalize, out, as_rows(x), no_residual, weight, eps);
}

at::Tensor rms_norm(const at::Tensor& x, const std::optional<at::Tensor>& weight, double eps) {
  at::Tensor out = new_empty(x, x.sizes());
  rms_norm_out(x, weight, eps, out);
  return out;
}

void fused_add_rms_norm(at::Tensor& x,
                        at::Tensor& residual,
                        const std::optional<at::Tensor>& weight,
                        double eps) {
  const char* op = "openreg::fused_add_rms_norm";
  check(op, x, weight, x);
  SameDeviceAs(op, x).check("residual", residual);
  check_dtype(op, "residual", residual, {x.scalar_type()});
  check_shape(op, "residual", residual, x.sizes());
  check_rows(op, "x", x);
  check_rows(op, "residual", residual);
  run(x, op, normalize, x, x, residual, weight, eps);
}

at::Tensor rms_norm_meta(const at::Tensor& x, const std::optional<at::Tensor>& weight, double eps) {
  return at::empty_symint(x.sym_sizes(), x.options());
}
void rms_norm_out_meta(const at::Tensor&, const std::optional<at::Tensor>&, double, at::Tensor&) {}
void fused_add_rms_norm_meta(at::Tensor&, at::Tensor&, const std::optional<at::Tensor>&, double) {}

TORCH_LIBRARY_FRAGMENT(openreg, m) {
  define(m, "rms_norm(Tensor x, Tensor? weight=None, float eps=1e-06) -> Tensor", rms_norm,
         rms_norm_meta);
  define(m, "rms_norm.out(Tensor x, Tensor? weight=None, float eps=1e-06, *, Tensor(a!) out) -> ()",
         rms_norm_out, rms_norm_out_meta);
  define(m,
         "fused_add_rms_norm(Tensor(a!) x, Tensor(b!) residual, Tensor? weight=None, "
         "float eps=1e-06) -> ()",
         fused_add_rms_norm, fused_add_rms_norm_meta);
}

} // namespace
} // namespace at::openreg
