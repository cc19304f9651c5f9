#include "aten/Structured.h"

#include <ATen/native/Resize.h>

#include "aten/Factories.h"

namespace at::openreg {

at::Tensor
allocate_output(at::IntArrayRef sizes, at::IntArrayRef strides, const at::TensorOptions& options) {
  const auto dtype = c10::typeMetaToScalarType(options.dtype());
  return strides.empty()
             ? empty_on(options.device(), sizes, dtype,
                        options.memory_format_opt().value_or(at::MemoryFormat::Contiguous))
             : empty_strided_on(options.device(), sizes, strides, dtype);
}

void check_inplace_output(const at::Tensor& output,
                          at::IntArrayRef sizes,
                          const at::TensorOptions& options) {
  TORCH_CHECK(options.dtype() == output.dtype(), "Bad in-place call: input tensor dtype ",
              output.dtype(), " and output tensor dtype ", options.dtype(), " should match");
  TORCH_CHECK(options.device() == output.device(), "Bad in-place call: input tensor device ",
              output.device(), " and output tensor device ", options.device(), " should match");
  TORCH_CHECK(sizes == output.sizes(), "Bad in-place call: input tensor size ", output.sizes(),
              " and output tensor size ", sizes, " should match");
}

void resize_out_argument(at::Tensor& output,
                         at::IntArrayRef sizes,
                         at::IntArrayRef strides,
                         const at::TensorOptions& options) {
  TORCH_CHECK(options.dtype() == output.dtype(), "Expected out tensor to have dtype ",
              options.dtype(), ", but got ", output.dtype(), " instead");
  TORCH_CHECK(options.device() == output.device(), "Expected out tensor to have device ",
              options.device(), ", but got ", output.device(), " instead");
  if (at::native::resize_output(output, sizes)) {
    if (!strides.empty()) {
      output.as_strided_(sizes, strides);
    } else if (options.memory_format_opt().has_value()) {
      output.unsafeGetTensorImpl()->empty_tensor_restride(*options.memory_format_opt());
    }
  }
}

void SameDevice::check(const at::Tensor& tensor, const char* argument) {
  if (!tensor.defined()) {
    return;
  }
  const at::Device device = tensor.device();
  if (!device_.has_value()) {
    device_ = device;
    return;
  }
  TORCH_CHECK(*device_ == device, "Expected all tensors to be on the same device, but got ",
              argument, " is on ", device, ", different from other tensors on ", *device_,
              " (when checking argument in method ", op_, ")");
}

} // namespace at::openreg
