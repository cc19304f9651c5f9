// rms_norm. ATen composes it of six operators where a device has no kernel of its
// own, as on the CPU. Here one kernel does it; but where a gradient or a tangent
// is asked for, autograd sees the composition, which can be differentiated again.

#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/ops/_fused_rms_norm_compositeimplicitautograd_dispatch.h>
#include <ATen/ops/_fused_rms_norm_ops.h>
#include <torch/library.h>

#include "aten/Factories.h"
#include "aten/Launch.h"
#include "aten/Structured.h"
#include "kernels/Normalization.h"

namespace at::openreg {
namespace {

// The normalized tensor and the reciprocal of the root mean square of each row.
using Result = std::tuple<at::Tensor, at::Tensor>;

Result composed(const at::Tensor& input,
                at::IntArrayRef normalized_shape,
                const std::optional<at::Tensor>& weight,
                std::optional<double> eps) {
  return at::compositeimplicitautograd::_fused_rms_norm(input, normalized_shape, weight, eps);
}

bool has_kernel(const at::Tensor& input,
                at::IntArrayRef normalized_shape,
                const std::optional<at::Tensor>& weight) {
  const at::ScalarType dtype = input.scalar_type();
  const auto is_vector = [&](const at::Tensor& tensor) {
    return tensor.scalar_type() == dtype && tensor.sizes() == normalized_shape &&
           tensor.is_contiguous();
  };
  return (dtype == at::kFloat || dtype == at::kBFloat16 || dtype == at::kHalf) &&
         normalized_shape.size() == 1 && input.dim() > 0 && input.size(-1) == normalized_shape[0] &&
         input.numel() > 0 && input.is_contiguous() && (!weight.has_value() || is_vector(*weight));
}

void normalize(at::Tensor& out,
               at::Tensor& rstd,
               const at::Tensor& input,
               const std::optional<at::Tensor>& weight,
               double eps) {
  rms_norm_kernel({
      .x = Rows(input),
      .out = Rows(out),
      .residual = nullptr,
      .weight = weight ? weight->const_data_ptr() : nullptr,
      .dtype = input.scalar_type(),
      .weight_dtype = input.scalar_type(),
      .eps = static_cast<float>(eps),
      .rstd = rstd.mutable_data_ptr<float>(),
  });
}

Result fused_rms_norm(const at::Tensor& input,
                      at::IntArrayRef normalized_shape,
                      const std::optional<at::Tensor>& weight,
                      std::optional<double> eps) {
  if (!has_kernel(input, normalized_shape, weight)) {
    return composed(input, normalized_shape, weight, eps);
  }
  SameDevice devices("wrapper_openreg__fused_rms_norm");
  devices.check(input, "input");
  devices.check(weight, "weight");
  c10::DimVector rows(input.sizes());
  rows.back() = 1;
  at::Tensor out = empty_on(input.device(), input.sizes(), input.scalar_type());
  at::Tensor rstd = empty_on(input.device(), rows, at::kFloat);
  launch(input.get_device(), "aten::_fused_rms_norm", normalize, out, rstd, input, weight,
         eps.value_or(std::numeric_limits<float>::epsilon()));
  return {std::move(out), std::move(rstd)};
}

bool is_differentiated(const at::Tensor& tensor) {
  return (at::GradMode::is_enabled() && tensor.requires_grad()) ||
         tensor._fw_grad(/*level=*/0).defined();
}

Result differentiable_rms_norm(const at::Tensor& input,
                               at::IntArrayRef normalized_shape,
                               const std::optional<at::Tensor>& weight,
                               std::optional<double> eps) {
  if (is_differentiated(input) || (weight.has_value() && is_differentiated(*weight))) {
    return composed(input, normalized_shape, weight, eps);
  }
  const at::AutoDispatchBelowADInplaceOrView guard;
  return at::_ops::_fused_rms_norm::call(input, normalized_shape, weight, eps);
}

TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
  m.impl("_fused_rms_norm", TORCH_FN(fused_rms_norm));
}

TORCH_LIBRARY_IMPL(aten, AutogradPrivateUse1, m) {
  m.impl("_fused_rms_norm", TORCH_FN(differentiable_rms_norm));
}

} // namespace
} // namespace at::openreg
