// Quantised tensors: per tensor and per channel. ATen's device-generic functions
// make them and their views; the parameters of per-channel ones lie on the
// device. Their arithmetic is the fallback.

#include <ATen/core/Tensor.h>
#include <ATen/ops/_convert_weight_to_int4pack_for_cpu_ops.h>
#include <ATen/ops/_empty_affine_quantized_native.h>
#include <ATen/ops/_empty_per_channel_affine_quantized_native.h>
#include <ATen/ops/_reshape_alias_native.h>
#include <ATen/ops/_weight_int4pack_mm_for_cpu_ops.h>
#include <ATen/ops/as_strided_native.h>
#include <ATen/ops/copy_ops.h>
#include <ATen/ops/empty_like_native.h>
#include <ATen/ops/empty_native.h>
#include <ATen/ops/empty_quantized_native.h>
#include <ATen/ops/empty_strided_native.h>
#include <ATen/ops/q_per_channel_axis_native.h>
#include <ATen/ops/q_per_channel_scales_native.h>
#include <ATen/ops/q_per_channel_zero_points_native.h>
#include <ATen/ops/q_scale_native.h>
#include <ATen/ops/q_zero_point_native.h>
#include <ATen/ops/qscheme_native.h>
#include <ATen/ops/set_native.h>
#include <ATen/ops/squeeze_native.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/unfold_native.h>
#include <ATen/ops/unsqueeze_native.h>
#include <ATen/ops/view_native.h>
#include <ATen/quantized/QTensorImpl.h>
#include <ATen/quantized/Quantizer.h>
#include <torch/library.h>

#include "aten/Fallback.h"
#include "aten/OnDevice.h"

namespace at::openreg {
namespace {

// The numbers of a quantised tensor as a dense one over the same storage: of the
// underlying type, or, where elements are smaller than a byte, as bytes.
at::Tensor numbers_of(const at::Tensor& tensor) {
  const bool is_packed =
      tensor.scalar_type() == at::kQUInt4x2 || tensor.scalar_type() == at::kQUInt2x4;
  at::Tensor numbers = at::detail::make_tensor<c10::TensorImpl>(
      c10::Storage(tensor.storage()),
      c10::DispatchKeySet(tensor.is_privateuseone() ? c10::DispatchKey::PrivateUse1
                                                    : c10::DispatchKey::CPU),
      c10::scalarTypeToTypeMeta(c10::toUnderlying(tensor.scalar_type())));
  auto* impl = numbers.unsafeGetTensorImpl();
  if (is_packed) {
    impl->set_sizes_contiguous({static_cast<int64_t>(tensor.storage().nbytes())});
  } else {
    impl->set_storage_offset(tensor.storage_offset());
    impl->set_sizes_and_strides(tensor.sizes(), tensor.strides());
  }
  return numbers;
}

at::QuantizerPtr quantizer_on(c10::Device device, const at::QuantizerPtr& quantizer) {
  const auto scheme = quantizer->qscheme();
  if (scheme != at::kPerChannelAffine && scheme != at::kPerChannelAffineFloatQParams) {
    return quantizer;
  }
  const auto* channels = static_cast<at::PerChannelAffineQuantizer*>(quantizer.get());
  return at::make_per_channel_affine_quantizer(channels->scales().to(device),
                                               channels->zero_points().to(device), channels->axis(),
                                               quantizer->scalar_type());
}

at::Tensor& copy_(at::Tensor& self, const at::Tensor& src, bool non_blocking) {
  if (self.is_same(src)) {
    return self;
  }
  TORCH_CHECK(self.is_quantized(),
              "Copying from quantized Tensor to non-quantized Tensor is not allowed, please use "
              "dequantize to get a float Tensor from a quantized Tensor");
  if (!src.is_quantized()) {
    at::Tensor on_device = self.is_cpu() ? src.cpu() : src.to(self.device());
    return self.is_cpu() ? self.copy_(on_device)
                         : call_fallback<at::_ops::copy_>(self, on_device, non_blocking);
  }
  TORCH_CHECK(self.qscheme() == src.qscheme(), "Quantized Copy only works with same qscheme");
  TORCH_CHECK(self.scalar_type() == src.scalar_type(),
              "Quantized Copy only works with the same dtype, got ", src.scalar_type(), " to ",
              self.scalar_type());
  at::set_quantizer_(self, quantizer_on(self.device(), at::get_qtensorimpl(src)->quantizer()));
  numbers_of(self).copy_(numbers_of(src), non_blocking);
  return self;
}

// As CUDA's, weights of two 4-bit numbers a byte, uint8 [n, k / 2], are taken
// beside the CPU's int32 [n, k]. The packed form is the CPU's, uint8 [n, k / 2].
at::Tensor convert_weight_to_int4pack(const at::Tensor& self, int64_t inner_k_tiles) {
  if (self.scalar_type() != at::kByte) {
    return call_fallback<at::_ops::_convert_weight_to_int4pack_for_cpu>(self, inner_k_tiles);
  }
  TORCH_CHECK(self.dim() == 2, "_convert_weight_to_int4pack: expected a 2-D weight, got ",
              self.dim(), "-D");
  const at::Tensor high = self.bitwise_right_shift(4);
  const at::Tensor low = self.bitwise_and(15);
  const at::Tensor numbers = at::stack({high, low}, -1).view({self.size(0), -1}).to(at::kInt);
  return call_fallback<at::_ops::_convert_weight_to_int4pack_for_cpu>(numbers, inner_k_tiles);
}

at::Tensor weight_int4pack_mm(const at::Tensor& self,
                              const at::Tensor& mat2,
                              int64_t group_size,
                              const at::Tensor& scale_and_zeros) {
  return call_fallback<at::_ops::_weight_int4pack_mm_for_cpu>(self, mat2, group_size,
                                                              scale_and_zeros);
}

using Squeeze = at::Tensor (*)(const at::Tensor&);
using SqueezeDim = at::Tensor (*)(const at::Tensor&, int64_t);
using SqueezeDims = at::Tensor (*)(const at::Tensor&, at::IntArrayRef);

TORCH_LIBRARY_IMPL(aten, QuantizedPrivateUse1, m) {
  m.impl("empty.memory_format", OPENREG_ON_DEVICE(at::native::empty_unknown_quantized));
  m.impl("empty_strided", OPENREG_ON_DEVICE(at::native::empty_strided_unknown_quantized));
  m.impl("empty_like", OPENREG_ON_DEVICE(at::native::empty_like_quantized));
  m.impl("empty_quantized", OPENREG_ON_DEVICE(at::native::empty_quantized));
  m.impl("_empty_affine_quantized", OPENREG_ON_DEVICE(at::native::empty_affine_quantized));
  m.impl("_empty_per_channel_affine_quantized",
         OPENREG_ON_DEVICE(at::native::empty_per_channel_affine_quantized));
  m.impl("copy_", OPENREG_ON_DEVICE(copy_));

  m.impl("as_strided", TORCH_FN(at::native::as_strided_qtensorimpl));
  m.impl("view", TORCH_FN(at::native::view));
  m.impl("_reshape_alias", TORCH_FN(at::native::_reshape_alias));
  m.impl("unfold", TORCH_FN(at::native::unfold));
  m.impl("squeeze", static_cast<Squeeze>(&at::native::squeeze_quantized));
  m.impl("squeeze.dim", static_cast<SqueezeDim>(&at::native::squeeze_quantized));
  m.impl("squeeze.dims", static_cast<SqueezeDims>(&at::native::squeeze_quantized));
  m.impl("unsqueeze", TORCH_FN(at::native::unsqueeze_quantized));
  m.impl("set_.source_Storage_storage_offset", TORCH_FN(at::native::set_storage_quantized_));

  m.impl("qscheme", TORCH_FN(at::native::qscheme_quant));
  m.impl("q_scale", TORCH_FN(at::native::q_scale_quant));
  m.impl("q_zero_point", TORCH_FN(at::native::q_zero_point_quant));
  m.impl("q_per_channel_scales", TORCH_FN(at::native::q_per_channel_scales));
  m.impl("q_per_channel_zero_points", TORCH_FN(at::native::q_per_channel_zero_points));
  m.impl("q_per_channel_axis", TORCH_FN(at::native::q_per_channel_axis));

  fall_back_for_the_rest(m, c10::DispatchKey::QuantizedCPU, c10::DispatchKey::QuantizedPrivateUse1);
}

TORCH_LIBRARY_IMPL(_, QuantizedPrivateUse1, m) {
  m.fallback(torch::CppFunction::makeFromBoxedFunction<&fallback>());
}

TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
  m.impl("_empty_affine_quantized",
         TORCH_FN(at::native::empty_affine_quantized_other_backends_stub));
  m.impl("_empty_per_channel_affine_quantized",
         TORCH_FN(at::native::empty_per_channel_affine_quantized_other_backends_stub));
  m.impl("_convert_weight_to_int4pack", TORCH_FN(convert_weight_to_int4pack));
  m.impl("_weight_int4pack_mm", TORCH_FN(weight_int4pack_mm));
}

} // namespace
} // namespace at::openreg
