#include "aten/Resize.h"

#include <ATen/Context.h>
#include <ATen/EmptyTensor.h>
#include <ATen/detail/PrivateUse1HooksInterface.h>
#include <ATen/native/ResizeCommon.h>
#include <torch/library.h>

namespace at::openreg {
namespace {

void grow_storage(c10::TensorImpl* impl, size_t nbytes) {
  const at::Storage& storage = impl->unsafe_storage();
  TORCH_CHECK(storage, "Tensor: invalid null storage");
  if (nbytes > storage.nbytes()) {
    // The hook that torch.UntypedStorage.resize_ uses, too.
    at::detail::getPrivateUse1Hooks().resizePrivateUse1Bytes(storage, nbytes);
  }
}

const at::Tensor& resize_(const at::Tensor& self,
                          at::IntArrayRef size,
                          std::optional<at::MemoryFormat> memory_format) {
  auto* impl = self.unsafeGetTensorImpl();
  const auto old_nbytes = impl->unsafe_storage() ? impl->unsafe_storage().nbytes() : size_t{0};
  resize_tensor_impl(impl, size, std::nullopt);
  if (memory_format.has_value()) {
    TORCH_CHECK(*memory_format != at::MemoryFormat::Preserve, "Unsupported memory format",
                *memory_format);
    impl->empty_tensor_restride(*memory_format);
  }
  if (C10_UNLIKELY(at::globalContext().deterministicAlgorithms() &&
                   at::globalContext().deterministicFillUninitializedMemory())) {
    at::native::fill_resize_deterministic_(self, static_cast<int64_t>(old_nbytes));
  }
  return self;
}

} // namespace

void resize_tensor_impl(c10::TensorImpl* impl,
                        at::IntArrayRef sizes,
                        at::OptionalIntArrayRef strides) {
  if (impl->sizes() == sizes && (!strides.has_value() || impl->strides() == *strides)) {
    // Same geometry; the storage may still be another one (set_).
    const size_t needed = at::detail::computeStorageNbytes(sizes, impl->strides(), impl->itemsize(),
                                                           impl->storage_offset());
    grow_storage(impl, needed);
    return;
  }
  at::detail::check_size_nonnegative(sizes);
  const size_t itemsize = impl->itemsize();
  const int64_t offset = impl->storage_offset();
  const size_t nbytes = strides.has_value()
                            ? at::detail::computeStorageNbytes(sizes, *strides, itemsize, offset)
                            : at::detail::computeStorageNbytesContiguous(sizes, itemsize, offset);
  if (strides.has_value()) {
    impl->set_sizes_and_strides(sizes, *strides);
  } else {
    impl->generic_set_sizes_contiguous(sizes);
  }
  grow_storage(impl, nbytes);
}

TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
  m.impl("resize_", TORCH_FN(resize_));
}

} // namespace at::openreg
