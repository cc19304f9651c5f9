// Dropout, which at::dropout calls for accelerators. On the CPU at::dropout is
// composed of other operators instead; the kernel does what those do, so that
// torch.nn.Dropout drops the same elements and scales the others the same.

#include <ATen/ops/bernoulli_cpu_dispatch.h>
#include <ATen/ops/copy_native.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/mul_cpu_dispatch.h>
#include <ATen/ops/native_dropout_backward_ops.h>
#include <ATen/ops/native_dropout_ops.h>
#include <torch/library.h>

#include "aten/Boxed.h"
#include "aten/Fallback.h"
#include "aten/Launch.h"
#include "aten/LayerShapes.h"
#include "aten/Random.h"
#include "aten/Structured.h"

namespace at::openreg {
namespace {

void dropout_kernel(const at::Tensor& input,
                    double p,
                    std::optional<at::Generator> generator,
                    at::Tensor& output,
                    at::Tensor& mask) {
  at::Tensor noise = at::empty_like(input);
  at::cpu::bernoulli_(noise, 1 - p, std::move(generator));
  at::native::copy_(mask, noise, false);
  if (p < 1) {
    noise.div_(1 - p);
  }
  at::cpu::mul_out(output, input, noise);
}

void dropout_backward_kernel(const at::Tensor& grad_output,
                             const at::Tensor& mask,
                             double scale,
                             at::Tensor& grad_input) {
  at::Tensor noise = at::empty_like(mask, grad_output.options());
  at::native::copy_(noise, mask, false);
  if (scale != 0) {
    noise.div_(1 / scale);
  } else {
    noise.zero_();
  }
  at::cpu::mul_out(grad_input, grad_output, noise);
}

std::tuple<at::Tensor, at::Tensor>
native_dropout(const at::Tensor& input, double p, std::optional<bool> train) {
  const bool is_simple = at::isFloatingType(input.scalar_type()) && train.value_or(true) &&
                         input.numel() > 0 && p >= 0 && p <= 1;
  if (!is_simple) {
    return call_fallback<at::_ops::native_dropout>(input, p, train);
  }
  const auto device = input.get_device();
  at::Tensor output = allocate(like(input), device);
  at::Tensor mask = allocate(like(input, at::kBool), device);
  auto draw = draw_from(std::nullopt, device);
  launch(device, "aten::native_dropout", &dropout_kernel, input, p,
         std::optional<at::Generator>(draw.generator), output, mask);
  return {std::move(output), std::move(mask)};
}

at::Tensor
native_dropout_backward(const at::Tensor& grad_output, const at::Tensor& mask, double scale) {
  const bool is_simple = at::isFloatingType(grad_output.scalar_type()) &&
                         mask.scalar_type() == at::kBool && grad_output.sizes() == mask.sizes() &&
                         mask.is_privateuseone();
  if (!is_simple) {
    return call_boxed<at::_ops::native_dropout_backward>(grad_output, mask, scale);
  }
  SameDevice devices("wrapper_openreg_native_dropout_backward");
  devices.check(grad_output, "grad_output");
  devices.check(mask, "mask");
  const auto device = grad_output.get_device();
  at::Tensor grad_input =
      allocate(elementwise({grad_output, mask}, grad_output.scalar_type()), device);
  launch(device, "aten::native_dropout_backward", &dropout_backward_kernel, grad_output, mask,
         scale, grad_input);
  return grad_input;
}

TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
  m.impl("native_dropout", TORCH_FN(native_dropout));
  m.impl("native_dropout_backward", TORCH_FN(native_dropout_backward));
}

} // namespace
} // namespace at::openreg
