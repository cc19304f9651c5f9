// The fused cells of LSTM and GRU, which ATen's recurrent layers call on every
// device that is not the CPU: all that follows the two matrix products of a time
// step, in one launch, and its derivative. ATen has no CPU kernel for them, so
// they are composed here of its element-wise kernels, in the order in which the
// CPU's layers apply them.
//
// Note [Workspace of the cells]
// The forward's last output is for the backward alone, and its content is the
// device's own choice. LSTM: the four gates after their activation, (B, 4H).
// GRU: reset gate, update gate, new gate, hx, and the hidden part of the new
// gate with its bias, (B, 5H).

#include <ATen/ops/add_cpu_dispatch.h>
#include <ATen/ops/copy_native.h>
#include <ATen/ops/mul_cpu_dispatch.h>
#include <ATen/ops/sigmoid_backward_cpu_dispatch.h>
#include <ATen/ops/sigmoid_cpu_dispatch.h>
#include <ATen/ops/sub_cpu_dispatch.h>
#include <ATen/ops/sum_cpu_dispatch.h>
#include <ATen/ops/tanh_backward_cpu_dispatch.h>
#include <ATen/ops/tanh_cpu_dispatch.h>
#include <torch/library.h>

#include "aten/Launch.h"
#include "aten/LayerShapes.h"
#include "aten/Structured.h"

namespace at::openreg {
namespace {

using OptionalTensor = std::optional<at::Tensor>;

// --- on the worker, on CPU tensors ----------------------------------------------

void add_bias(at::Tensor gates, const OptionalTensor& bias) {
  if (is_given(bias)) {
    at::cpu::add_(gates, *bias);
  }
}

void lstm_cell_kernel(const at::Tensor& input_gates,
                      const at::Tensor& hidden_gates,
                      const at::Tensor& cx,
                      const OptionalTensor& input_bias,
                      const OptionalTensor& hidden_bias,
                      at::Tensor& hy,
                      at::Tensor& cy,
                      at::Tensor& workspace) {
  at::cpu::add_out(workspace, hidden_gates, input_gates);
  add_bias(workspace, hidden_bias);
  add_bias(workspace, input_bias);
  auto gates = workspace.chunk(4, 1);
  at::cpu::sigmoid_(gates[0]);
  at::cpu::sigmoid_(gates[1]);
  at::cpu::tanh_(gates[2]);
  at::cpu::sigmoid_(gates[3]);
  at::cpu::mul_out(cy, gates[1], cx);
  at::cpu::add_(cy, at::cpu::mul(gates[0], gates[2]));
  at::cpu::tanh_out(hy, cy);
  at::cpu::mul_(hy, gates[3]);
}

void lstm_cell_backward_kernel(const OptionalTensor& grad_hy,
                               const OptionalTensor& grad_cy,
                               const at::Tensor& cx,
                               const at::Tensor& cy,
                               const at::Tensor& workspace,
                               at::Tensor& grad_gates,
                               at::Tensor& grad_cx,
                               const OptionalTensor& grad_bias) {
  const auto gates = workspace.chunk(4, 1);
  auto grads = grad_gates.chunk(4, 1);
  if (is_given(grad_hy)) {
    const at::Tensor tanh_cy = at::cpu::tanh(cy);
    at::cpu::sigmoid_backward_out(grads[3], at::cpu::mul(*grad_hy, tanh_cy), gates[3]);
    at::cpu::tanh_backward_out(grad_cx, at::cpu::mul(*grad_hy, gates[3]), tanh_cy);
    if (is_given(grad_cy)) {
      at::cpu::add_(grad_cx, *grad_cy);
    }
  } else {
    grads[3].zero_();
    at::native::copy_(grad_cx, *grad_cy, false);
  }
  // grad_cx holds the gradient of cy until the last line.
  at::cpu::sigmoid_backward_out(grads[0], at::cpu::mul(grad_cx, gates[2]), gates[0]);
  at::cpu::sigmoid_backward_out(grads[1], at::cpu::mul(grad_cx, cx), gates[1]);
  at::cpu::tanh_backward_out(grads[2], at::cpu::mul(grad_cx, gates[0]), gates[2]);
  at::cpu::mul_(grad_cx, gates[1]);
  if (is_given(grad_bias)) {
    at::Tensor bias = *grad_bias;
    at::cpu::sum_out(bias, grad_gates, at::IntArrayRef{0});
  }
}

void gru_cell_kernel(const at::Tensor& input_gates,
                     const at::Tensor& hidden_gates,
                     const at::Tensor& hx,
                     const OptionalTensor& input_bias,
                     const OptionalTensor& hidden_bias,
                     at::Tensor& hy,
                     at::Tensor& workspace) {
  auto saved = workspace.chunk(5, 1);
  const auto biased = [](const at::Tensor& gates, const OptionalTensor& bias) {
    return is_given(bias) ? at::cpu::add(gates, *bias) : gates;
  };
  const auto igates = biased(input_gates, input_bias).chunk(3, 1);
  const auto hgates = biased(hidden_gates, hidden_bias).chunk(3, 1);
  at::cpu::add_out(saved[0], hgates[0], igates[0]);
  at::cpu::sigmoid_(saved[0]);
  at::cpu::add_out(saved[1], hgates[1], igates[1]);
  at::cpu::sigmoid_(saved[1]);
  at::cpu::add_out(saved[2], igates[2], at::cpu::mul(hgates[2], saved[0]));
  at::cpu::tanh_(saved[2]);
  at::native::copy_(saved[3], hx, false);
  at::native::copy_(saved[4], hgates[2], false);
  at::cpu::sub_out(hy, hx, saved[2]);
  at::cpu::mul_(hy, saved[1]);
  at::cpu::add_(hy, saved[2]);
}

void gru_cell_backward_kernel(const at::Tensor& grad_hy,
                              const at::Tensor& workspace,
                              at::Tensor& grad_input_gates,
                              at::Tensor& grad_hidden_gates,
                              at::Tensor& grad_hx,
                              const OptionalTensor& grad_input_bias,
                              const OptionalTensor& grad_hidden_bias) {
  const auto saved = workspace.chunk(5, 1);
  const at::Tensor& reset = saved[0];
  const at::Tensor& update = saved[1];
  const at::Tensor& fresh = saved[2];
  auto input_grads = grad_input_gates.chunk(3, 1);
  auto hidden_grads = grad_hidden_gates.chunk(3, 1);
  at::cpu::mul_out(grad_hx, grad_hy, update);
  const at::Tensor grad_update = at::cpu::mul(grad_hy, at::cpu::sub(saved[3], fresh));
  at::cpu::sigmoid_backward_out(input_grads[1], grad_update, update);
  at::cpu::tanh_backward_out(input_grads[2], at::cpu::sub(grad_hy, grad_hx), fresh);
  at::cpu::sigmoid_backward_out(input_grads[0], at::cpu::mul(input_grads[2], saved[4]), reset);
  at::native::copy_(hidden_grads[0], input_grads[0], false);
  at::native::copy_(hidden_grads[1], input_grads[1], false);
  at::cpu::mul_out(hidden_grads[2], input_grads[2], reset);
  if (is_given(grad_input_bias)) {
    at::Tensor input_bias = *grad_input_bias;
    at::Tensor hidden_bias = *grad_hidden_bias;
    at::cpu::sum_out(input_bias, grad_input_gates, at::IntArrayRef{0});
    at::cpu::sum_out(hidden_bias, grad_hidden_gates, at::IntArrayRef{0});
  }
}

// --- on the calling thread -------------------------------------------------------

// `gates` chunks of the width of the state `hx` in both products, and in the
// biases if there are any.
void check_cell(const char* cell,
                int64_t chunks,
                const at::Tensor& input_gates,
                const at::Tensor& hidden_gates,
                const at::Tensor& hx,
                const OptionalTensor& input_bias,
                const OptionalTensor& hidden_bias) {
  SameDevice devices(cell);
  devices.check(input_gates, "input_gates");
  devices.check(hidden_gates, "hidden_gates");
  devices.check(hx, "hx");
  devices.check(input_bias, "input_bias");
  devices.check(hidden_bias, "hidden_bias");
  TORCH_CHECK(input_gates.dim() == 2 && hx.dim() == 2 &&
                  input_gates.sizes() == hidden_gates.sizes() &&
                  input_gates.size(0) == hx.size(0) && input_gates.size(1) == chunks * hx.size(1),
              cell, ": expected gates of size [batch, ", chunks,
              " * hidden] for a state [batch, hidden], "
              "got ",
              input_gates.sizes(), ", ", hidden_gates.sizes(), " and ", hx.sizes());
  TORCH_CHECK(input_gates.scalar_type() == hidden_gates.scalar_type() &&
                  input_gates.scalar_type() == hx.scalar_type(),
              cell, ": expected gates and state of one dtype, got ", input_gates.scalar_type(),
              ", ", hidden_gates.scalar_type(), " and ", hx.scalar_type());
  TORCH_CHECK(is_given(input_bias) == is_given(hidden_bias), cell,
              ": expected both biases or none");
  for (const auto* bias : {&input_bias, &hidden_bias}) {
    TORCH_CHECK(!is_given(*bias) || (*bias)->numel() == input_gates.size(1), cell,
                ": expected a bias of ", input_gates.size(1), " elements, got ",
                is_given(*bias) ? (*bias)->numel() : 0);
  }
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> fused_lstm_cell(const at::Tensor& input_gates,
                                                               const at::Tensor& hidden_gates,
                                                               const at::Tensor& cx,
                                                               const OptionalTensor& input_bias,
                                                               const OptionalTensor& hidden_bias) {
  check_cell("_thnn_fused_lstm_cell", 4, input_gates, hidden_gates, cx, input_bias, hidden_bias);
  const auto device = device_of_first(input_gates);
  at::Tensor hy = allocate(contiguous_like(cx), device);
  at::Tensor cy = allocate(contiguous_like(cx), device);
  at::Tensor workspace = allocate(contiguous_like(input_gates), device);
  launch(device, "aten::_thnn_fused_lstm_cell", &lstm_cell_kernel, input_gates, hidden_gates, cx,
         input_bias, hidden_bias, hy, cy, workspace);
  return {std::move(hy), std::move(cy), std::move(workspace)};
}

std::tuple<at::Tensor, at::Tensor, at::Tensor>
fused_lstm_cell_backward(const OptionalTensor& grad_hy,
                         const OptionalTensor& grad_cy,
                         const at::Tensor& cx,
                         const at::Tensor& cy,
                         const at::Tensor& workspace,
                         bool has_bias) {
  if (!is_given(grad_hy) && !is_given(grad_cy)) {
    return {};
  }
  const auto device = device_of_first(workspace);
  at::Tensor grad_gates = allocate(contiguous_like(workspace), device);
  at::Tensor grad_cx = allocate(contiguous_like(cx), device);
  at::Tensor grad_bias = allocate(
      optional_output(has_bias, contiguous({workspace.size(1)}, workspace.scalar_type())), device);
  launch(device, "aten::_thnn_fused_lstm_cell_backward_impl", &lstm_cell_backward_kernel, grad_hy,
         grad_cy, cx, cy, workspace, grad_gates, grad_cx, OptionalTensor(grad_bias));
  return {std::move(grad_gates), std::move(grad_cx), std::move(grad_bias)};
}

std::tuple<at::Tensor, at::Tensor> fused_gru_cell(const at::Tensor& input_gates,
                                                  const at::Tensor& hidden_gates,
                                                  const at::Tensor& hx,
                                                  const OptionalTensor& input_bias,
                                                  const OptionalTensor& hidden_bias) {
  check_cell("_thnn_fused_gru_cell", 3, input_gates, hidden_gates, hx, input_bias, hidden_bias);
  const auto device = device_of_first(input_gates);
  at::Tensor hy = allocate(contiguous_like(hx), device);
  at::Tensor workspace =
      allocate(contiguous({hx.size(0), 5 * hx.size(1)}, hx.scalar_type()), device);
  launch(device, "aten::_thnn_fused_gru_cell", &gru_cell_kernel, input_gates, hidden_gates, hx,
         input_bias, hidden_bias, hy, workspace);
  return {std::move(hy), std::move(workspace)};
}

std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor>
fused_gru_cell_backward(const at::Tensor& grad_hy, const at::Tensor& workspace, bool has_bias) {
  const auto device = device_of_first(workspace);
  const auto dtype = workspace.scalar_type();
  const int64_t batch = workspace.size(0);
  const int64_t width = workspace.size(1) / 5 * 3;
  const auto allocate_bias = [&] {
    return allocate(optional_output(has_bias, contiguous({width}, dtype)), device);
  };
  at::Tensor grad_input_gates = allocate(contiguous({batch, width}, dtype), device);
  at::Tensor grad_hidden_gates = allocate(contiguous({batch, width}, dtype), device);
  at::Tensor grad_hx = allocate(contiguous({batch, width / 3}, dtype), device);
  at::Tensor grad_input_bias = allocate_bias();
  at::Tensor grad_hidden_bias = allocate_bias();
  launch(device, "aten::_thnn_fused_gru_cell_backward", &gru_cell_backward_kernel, grad_hy,
         workspace, grad_input_gates, grad_hidden_gates, grad_hx, OptionalTensor(grad_input_bias),
         OptionalTensor(grad_hidden_bias));
  return {std::move(grad_input_gates), std::move(grad_hidden_gates), std::move(grad_hx),
          std::move(grad_input_bias), std::move(grad_hidden_bias)};
}

TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
  m.impl("_thnn_fused_lstm_cell", TORCH_FN(fused_lstm_cell));
  m.impl("_thnn_fused_lstm_cell_backward_impl", TORCH_FN(fused_lstm_cell_backward));
  m.impl("_thnn_fused_gru_cell", TORCH_FN(fused_gru_cell));
  m.impl("_thnn_fused_gru_cell_backward", TORCH_FN(fused_gru_cell_backward));
}

} // namespace
} // namespace at::openreg
