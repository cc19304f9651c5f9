// copy_: between devices and the host, with any change of dtype and layout.
//
// What waits: a copy from pageable host memory larger than the launch captures,
// and every copy to the host except non_blocking to pinned memory. As in CUDA,
// a copy between two devices makes each one's current stream wait for the other.

#include <ATen/ExpandUtils.h>
#include <ATen/MemoryOverlap.h>
#include <ATen/ops/_local_scalar_dense_cpu_dispatch.h>
#include <ATen/ops/copy_native.h>
#include <torch/library.h>

#include "aten/Launch.h"
#include "aten/Resize.h"
#include "kernels/AliasPool.h"
#include "kernels/KernelScope.h"
#include "kernels/LinkCopy.h"
#include "runtime/Capture.h"
#include "runtime/Event.h"
#include "runtime/HostAllocator.h"
#include "runtime/Stream.h"

namespace at::openreg {
namespace {

using c10::openreg::OpenRegEvent;
using c10::openreg::OpenRegStream;

// Host tensors up to this size are copied into the launch.
constexpr size_t kCapturedBytes = 64 * 1024;

void check_broadcast(const at::Tensor& self, const at::Tensor& src) {
  if (self.sizes() == src.sizes()) {
    return;
  }
  const auto shape = at::infer_size_dimvector(self.sizes(), src.sizes());
  TORCH_CHECK(self.sizes() == at::IntArrayRef(shape), "output with shape ", self.sizes(),
              " doesn't match the broadcast shape ", at::IntArrayRef(shape));
}

// Whether the copy is one memcpy.
bool is_memcpy(const at::Tensor& self, const at::Tensor& src) {
  return self.scalar_type() == src.scalar_type() && self.sizes() == src.sizes() &&
         self.strides() == src.strides() && self.is_non_overlapping_and_dense() &&
         self.is_conj() == src.is_conj() && self.is_neg() == src.is_neg();
}

void launch_copy(c10::DeviceIndex device, const at::Tensor& self, const at::Tensor& src) {
  launch(device, "aten::copy_", &at::native::copy_, self, src, false);
}

void launch_copy_over_link(c10::DeviceIndex device, const at::Tensor& self, const at::Tensor& src) {
  launch(device, "aten::copy_", &copy_over_link, self, src, false);
}

void copy_between_devices(const at::Tensor& self, const at::Tensor& src) {
  const OpenRegStream source = c10::openreg::get_current_stream(src.get_device());
  const OpenRegStream target = c10::openreg::get_current_stream(self.get_device());
  OpenRegEvent written(orEventDisableTiming);
  written.record(source);
  written.block(target);
  launch_copy_over_link(self.get_device(), self, src);
  OpenRegEvent read(orEventDisableTiming);
  read.record(target);
  read.block(source);
}

bool is_pinned(const at::Tensor& tensor) {
  const void* data = tensor.storage().data();
  return data != nullptr && at::openreg::is_pinned(data);
}

// Keeps a pinned tensor's memory from reuse until the stream has passed here.
void record_pinned(const at::Tensor& tensor, const OpenRegStream& stream) {
  const auto& data = tensor.storage().data_ptr();
  at::openreg::record_event(data.get(), data.get_context(), stream);
}

// On the calling thread, once the stream is idle.
void copy_on_host_thread(c10::DeviceIndex device, const at::Tensor& self, const at::Tensor& src) {
  const orStream_t stream = c10::openreg::current_stream_handle(device);
  OPENREG_CHECK(orStreamSynchronize(stream));
  const auto alias = [](const at::Tensor& tensor) {
    return tensor.is_privateuseone() ? alias_tensor(tensor, alias_storage(tensor.storage()))
                                     : tensor;
  };
  at::Tensor target = alias(self);
  const at::Tensor source = alias(src);
  run_on_host_thread(device, stream, [&] { copy_over_link(target, source, false); });
}

void copy_host_device(const at::Tensor& self, const at::Tensor& src, bool non_blocking) {
  const bool to_device = self.is_privateuseone();
  const at::Tensor& host = to_device ? src : self;
  const auto device = (to_device ? self : src).get_device();
  const bool pinned = non_blocking && is_pinned(host);
  if (!pinned) {
    c10::openreg::check_not_capturing(
        c10::openreg::current_stream_handle(device),
        "a copy between the CPU and the device, other than non_blocking with pinned memory");
  }
  self.storage().mutable_data();
  if (to_device && src.nbytes() <= kCapturedBytes && !pinned) {
    launch_copy_over_link(device, self, src);
    return;
  }
  if (!is_memcpy(self, src)) {
    copy_on_host_thread(device, self, src);
    return;
  }
  const OpenRegStream stream = c10::openreg::get_current_stream(device);
  OPENREG_CHECK(orMemcpyAsync(self.mutable_data_ptr(), src.const_data_ptr(), src.nbytes(),
                              to_device ? orMemcpyHostToDevice : orMemcpyDeviceToHost,
                              stream.handle()));
  if (!is_pinned(host)) {
    return;
  }
  if (non_blocking) {
    record_pinned(host, stream);
  } else {
    stream.synchronize();
  }
}

at::Tensor& copy_(at::Tensor& self, const at::Tensor& src, bool non_blocking) {
  TORCH_CHECK(self.defined(), "self is undefined");
  TORCH_CHECK(src.defined(), "src is undefined");
  if (self.is_same(src)) {
    return self;
  }
  check_broadcast(self, src);
  at::assert_no_internal_overlap(self);
  at::assert_no_partial_overlap(self, src);
  TORCH_CHECK((self.is_privateuseone() || self.is_cpu()) &&
                  (src.is_privateuseone() || src.is_cpu()),
              "openreg tensors can be copied to and from the CPU and other openreg devices, got ",
              src.device(), " to ", self.device());
  if (self.numel() == 0) {
    return self;
  }
  if (src._is_zerotensor()) {
    return self.zero_();
  }
  if (self.is_privateuseone() && src.is_privateuseone()) {
    if (self.get_device() == src.get_device()) {
      launch_copy(self.get_device(), self, src);
    } else {
      copy_between_devices(self, src);
    }
  } else {
    copy_host_device(self, src, non_blocking);
  }
  return self;
}

at::Tensor copy_from(const at::Tensor& self, const at::Tensor& dst, bool non_blocking) {
  at::Tensor target = dst;
  return copy_(target, self, non_blocking);
}

at::Tensor copy_from_and_resize(const at::Tensor& self, const at::Tensor& dst) {
  dst.resize_(self.sizes());
  at::Tensor target = dst;
  return copy_(target, self, false);
}

at::Scalar local_scalar_dense(const at::Tensor& self) {
  const auto device = self.get_device();
  const orStream_t stream = c10::openreg::current_stream_handle(device);
  OPENREG_CHECK(orStreamSynchronize(stream));
  const at::Tensor alias = alias_tensor(self, alias_storage(self.storage()));
  at::Scalar result;
  run_on_host_thread(device, stream, [&] { result = at::cpu::_local_scalar_dense(alias); });
  return result;
}

void record_stream(at::Tensor& self, at::Stream stream) {
  c10::openreg::CachingAllocator::record_stream(self.storage().data_ptr(), OpenRegStream(stream));
}

TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
  m.impl("copy_", TORCH_FN(copy_));
  m.impl("_copy_from", TORCH_FN(copy_from));
  m.impl("_copy_from_and_resize", TORCH_FN(copy_from_and_resize));
  m.impl("_local_scalar_dense", TORCH_FN(local_scalar_dense));
  m.impl("record_stream", TORCH_FN(record_stream));
}

// The kernels above honour both bits; without this, copying a conjugate view
// would clone it, which copies it, and so on.
TORCH_LIBRARY_IMPL(aten, Conjugate, m) {
  m.impl("_copy_from", torch::CppFunction::makeFallthrough());
}
TORCH_LIBRARY_IMPL(aten, Negative, m) {
  m.impl("_copy_from", torch::CppFunction::makeFallthrough());
}

} // namespace
} // namespace at::openreg
