// empty and empty_strided: every device tensor begins here.

#include "aten/Factories.h"

#include <ATen/EmptyTensor.h>
#include <ATen/native/TensorFactories.h>
#include <c10/core/Allocator.h>
#include <torch/library.h>

#include "runtime/CachingAllocator.h"
#include "runtime/Dtypes.h"
#include "runtime/Functions.h"

namespace at::openreg {
namespace {

constexpr c10::DispatchKeySet kKeys(c10::DispatchKey::PrivateUse1);

// The storage's own allocator, which resizes ask, is the registered one.
c10::intrusive_ptr<c10::StorageImpl> new_storage(c10::DeviceIndex device, size_t nbytes) {
  namespace CachingAllocator = c10::openreg::CachingAllocator;
  return c10::make_intrusive<c10::StorageImpl>(
      c10::StorageImpl::use_byte_size_t(), nbytes,
      CachingAllocator::allocate(nbytes, device, c10::openreg::current_stream_handle(device),
                                 CachingAllocator::Order::Issue),
      CachingAllocator::get(),
      /*resizable=*/true);
}

void check_options(std::optional<at::Layout> layout, std::optional<bool> pin_memory) {
  TORCH_CHECK(c10::layout_or_default(layout) == at::kStrided,
              "openreg tensors are strided, got layout ", c10::layout_or_default(layout));
  TORCH_CHECK(!c10::pinned_memory_or_default(pin_memory), "Only dense CPU tensors can be pinned");
}

c10::DeviceIndex index_of(std::optional<at::Device> device) {
  const auto resolved = c10::device_or_default(device);
  TORCH_CHECK(resolved.is_privateuseone(), "expected an openreg device, got ", resolved);
  if (!resolved.has_index()) {
    return c10::openreg::current_device();
  }
  c10::openreg::check_device(resolved.index());
  return resolved.index();
}

at::Tensor make(c10::DeviceIndex device, size_t nbytes, at::ScalarType dtype) {
  c10::openreg::check_dtype(device, dtype);
  if (C10_UNLIKELY(dtype == at::kComplexHalf)) {
    TORCH_WARN_ONCE("ComplexHalf support is experimental and many operators don't support it yet.");
  }
  return at::detail::make_tensor_base<c10::TensorImpl>(c10::Storage(new_storage(device, nbytes)),
                                                       kKeys, c10::scalarTypeToTypeMeta(dtype));
}

at::Tensor empty_contiguous(c10::DeviceIndex device,
                            c10::IntArrayRef sizes,
                            at::ScalarType dtype,
                            at::MemoryFormat memory_format) {
  at::detail::check_size_nonnegative(sizes);
  const size_t nbytes = at::detail::computeStorageNbytesContiguous(sizes, c10::elementSize(dtype));
  at::Tensor tensor = make(device, nbytes, dtype);
  auto* impl = tensor.unsafeGetTensorImpl();
  if (sizes.size() != 1 || sizes[0] != 0) {
    impl->generic_set_sizes_contiguous(sizes);
  }
  if (memory_format != at::MemoryFormat::Contiguous) {
    impl->empty_tensor_restride(memory_format);
  }
  return tensor;
}

at::Tensor empty_memory_format(at::IntArrayRef size,
                               std::optional<at::ScalarType> dtype,
                               std::optional<at::Layout> layout,
                               std::optional<at::Device> device,
                               std::optional<bool> pin_memory,
                               std::optional<at::MemoryFormat> memory_format) {
  check_options(layout, pin_memory);
  TORCH_CHECK(memory_format != at::MemoryFormat::Preserve,
              "memory format option is only supported by strided tensors");
  at::Tensor result = empty_contiguous(index_of(device), size, c10::dtype_or_default(dtype),
                                       memory_format.value_or(at::MemoryFormat::Contiguous));
  if (C10_UNLIKELY(at::globalContext().deterministicAlgorithms() &&
                   at::globalContext().deterministicFillUninitializedMemory())) {
    at::native::fill_empty_deterministic_(result);
  }
  return result;
}

at::Tensor empty_strided(at::IntArrayRef size,
                         at::IntArrayRef stride,
                         std::optional<at::ScalarType> dtype,
                         std::optional<at::Layout> layout,
                         std::optional<at::Device> device,
                         std::optional<bool> pin_memory) {
  check_options(layout, pin_memory);
  at::Tensor result = empty_strided_on(c10::Device(c10::DeviceType::PrivateUse1, index_of(device)),
                                       size, stride, c10::dtype_or_default(dtype));
  if (C10_UNLIKELY(at::globalContext().deterministicAlgorithms() &&
                   at::globalContext().deterministicFillUninitializedMemory())) {
    at::native::fill_empty_deterministic_(result);
  }
  return result;
}

} // namespace

at::Tensor empty_on(c10::Device device,
                    c10::IntArrayRef sizes,
                    at::ScalarType dtype,
                    at::MemoryFormat memory_format) {
  return empty_contiguous(device.index(), sizes, dtype, memory_format);
}

at::Tensor empty_strided_on(c10::Device device,
                            c10::IntArrayRef sizes,
                            c10::IntArrayRef strides,
                            at::ScalarType dtype) {
  at::detail::check_size_nonnegative(sizes);
  const size_t nbytes = at::detail::computeStorageNbytes(sizes, strides, c10::elementSize(dtype));
  at::Tensor tensor = make(device.index(), nbytes, dtype);
  tensor.unsafeGetTensorImpl()->set_sizes_and_strides(sizes, strides);
  return tensor;
}

TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
  m.impl("empty.memory_format", TORCH_FN(empty_memory_format));
  m.impl("empty_strided", TORCH_FN(empty_strided));
}

} // namespace at::openreg
