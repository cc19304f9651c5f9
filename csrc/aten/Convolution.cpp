// Convolutions: what at::convolution calls for a device that is not among
// ATen's own. It has checked the arguments' shapes by then and has made 1-d
// convolutions 2-d; here the output is allocated, in the memory format that the
// CPU would choose, and ATen's own convolution runs on the worker.

#include <ATen/native/ConvUtils.h>
#include <ATen/ops/convolution.h>
#include <ATen/ops/convolution_backward.h>
#include <torch/library.h>

#include "aten/Launch.h"
#include "aten/Shapes.h"
#include "aten/Structured.h"
#include "kernels/AliasPool.h"

namespace at::openreg {
namespace {

struct ConvolutionArgs {
  at::IntArrayRef stride;
  at::IntArrayRef padding;
  at::IntArrayRef dilation;
  bool transposed;
  at::IntArrayRef output_padding;
  int64_t groups;
};

at::SymIntArrayRef symbolic(at::IntArrayRef values) {
  return c10::fromIntArrayRefSlow(values);
}

// The memory format of the CPU's result: asked of ATen with CPU tensors of the
// same geometry, whose data it does not look at.
at::MemoryFormat cpu_memory_format(const at::Tensor& input,
                                   const at::Tensor& weight,
                                   const std::optional<at::Tensor>& bias,
                                   const ConvolutionArgs& args) {
  const auto on_cpu = [](const at::Tensor& tensor) {
    return tensor.is_privateuseone() ? alias_tensor(tensor, alias_storage(tensor.storage()))
                                     : tensor;
  };
  const at::Tensor cpu_input = on_cpu(input);
  const at::Tensor cpu_weight = on_cpu(weight);
  const auto cpu_bias =
      bias.has_value() && bias->defined() ? std::optional<at::Tensor>(on_cpu(*bias)) : std::nullopt;
  const auto backend = at::native::select_conv_backend(
      cpu_input, cpu_weight, cpu_bias, symbolic(args.stride), symbolic(args.padding),
      symbolic(args.dilation), args.transposed, symbolic(args.output_padding), args.groups,
      std::nullopt);
  return at::native::_determine_backend_memory_format(cpu_input, cpu_weight, backend);
}

void check_types(const at::Tensor& input,
                 const at::Tensor& weight,
                 const std::optional<at::Tensor>& bias) {
  TORCH_CHECK(input.options().type_equal(weight.options()), "Input type (", input.toString(),
              ") and weight type (", weight.toString(), ") should be the same");
  TORCH_CHECK(!bias.has_value() || !bias->defined() || input.options().type_equal(bias->options()),
              "Input type (", input.toString(), ") and bias type (",
              bias.has_value() ? bias->toString() : "", ") should be the same");
}

Spec in_format(at::IntArrayRef sizes, at::ScalarType dtype, at::MemoryFormat format) {
  Spec spec = contiguous(sizes, dtype);
  if (format == at::MemoryFormat::ChannelsLast && sizes.size() == 4) {
    const auto strides = c10::get_channels_last_strides_2d(sizes);
    spec.strides.assign(strides.begin(), strides.end());
  } else if (format == at::MemoryFormat::ChannelsLast3d && sizes.size() == 5) {
    const auto strides = c10::get_channels_last_strides_3d(sizes);
    spec.strides.assign(strides.begin(), strides.end());
  }
  return spec;
}

at::Tensor convolution_overrideable(const at::Tensor& input,
                                    const at::Tensor& weight,
                                    const std::optional<at::Tensor>& bias,
                                    at::IntArrayRef stride,
                                    at::IntArrayRef padding,
                                    at::IntArrayRef dilation,
                                    bool transposed,
                                    at::IntArrayRef output_padding,
                                    int64_t groups) {
  SameDevice devices("wrapper_openreg_convolution_overrideable");
  devices.check(input, "input");
  devices.check(weight, "weight");
  devices.check(bias, "bias");
  check_types(input, weight, bias);
  const auto device = device_of_first(input, weight);
  const auto sizes =
      transposed
          ? at::native::conv_input_size(input.sizes(), weight.sizes(), padding, output_padding,
                                        stride, dilation, groups)
          : at::native::conv_output_size(input.sizes(), weight.sizes(), padding, stride, dilation);
  const auto format = cpu_memory_format(
      input, weight, bias, {stride, padding, dilation, transposed, output_padding, groups});
  at::Tensor output = allocate(in_format(sizes, input.scalar_type(), format), device);
  launch_functional(device, "aten::convolution_overrideable", {output}, &at::convolution, input,
                    weight, bias, stride, padding, dilation, transposed, output_padding, groups);
  return output;
}

std::tuple<at::Tensor, at::Tensor, at::Tensor>
convolution_backward_overrideable(const at::Tensor& grad_output,
                                  const at::Tensor& input,
                                  const at::Tensor& weight,
                                  at::IntArrayRef stride,
                                  at::IntArrayRef padding,
                                  at::IntArrayRef dilation,
                                  bool transposed,
                                  at::IntArrayRef output_padding,
                                  int64_t groups,
                                  std::array<bool, 3> output_mask) {
  SameDevice devices("wrapper_openreg_convolution_backward_overrideable");
  devices.check(grad_output, "grad_output");
  devices.check(input, "input");
  devices.check(weight, "weight");
  check_types(input, weight, std::nullopt);
  const auto device = device_of_first(grad_output, input, weight);
  const auto format = cpu_memory_format(
      input, weight, std::nullopt, {stride, padding, dilation, transposed, output_padding, groups});
  const int64_t channels = grad_output.size(1);
  const auto dtype = grad_output.scalar_type();
  at::Tensor grad_input =
      allocate(optional_output(output_mask[0], in_format(input.sizes(), dtype, format)), device);
  at::Tensor grad_weight =
      allocate(optional_output(output_mask[1], in_format(weight.sizes(), dtype, format)), device);
  at::Tensor grad_bias =
      allocate(optional_output(output_mask[2], contiguous({channels}, dtype)), device);
  launch_functional(device, "aten::convolution_backward_overrideable",
                    {grad_input, grad_weight, grad_bias}, &at::convolution_backward, grad_output,
                    input, weight, at::OptionalIntArrayRef(channels), stride, padding, dilation,
                    transposed, output_padding, groups, output_mask);
  return {std::move(grad_input), std::move(grad_weight), std::move(grad_bias)};
}

TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
  m.impl("convolution_overrideable", TORCH_FN(convolution_overrideable));
  m.impl("convolution_backward_overrideable", TORCH_FN(convolution_backward_overrideable));
}

} // namespace
} // namespace at::openreg
