#include "kernels/AliasPool.h"

#include <ATen/core/Tensor.h>
#include <c10/core/StorageImpl.h>
#include <c10/core/TensorImpl.h>
#include <c10/core/alignment.h>
#include <c10/util/Exception.h>
#include <c10/util/accumulate.h>

#include <cstdlib>
#include <cstring>

#include "device/openreg_kernel.h"
#include "kernels/RehearsedData.h"
#include "runtime/Capture.h"
#include "runtime/Stream.h"

namespace at::openreg {
namespace {

constexpr c10::DispatchKeySet kCpuKeys(c10::DispatchKey::CPU);

thread_local constinit ZeroAliases* zero_aliases = nullptr;
thread_local constinit bool with_ones = false;

void* backing_or_null(void* device_pointer) {
  return device_pointer == nullptr ? nullptr : orBacking(device_pointer);
}

c10::DataPtr borrowed(void* data) {
  return {data, c10::Device(c10::DeviceType::CPU)};
}

at::Tensor new_alias(void* data, size_t nbytes, caffe2::TypeMeta dtype) {
  auto storage = c10::make_intrusive<c10::StorageImpl>(c10::StorageImpl::use_byte_size_t(), nbytes,
                                                       borrowed(data),
                                                       /*allocator=*/nullptr,
                                                       /*resizable=*/false);
  return at::detail::make_tensor<c10::TensorImpl>(c10::Storage(std::move(storage)), kCpuKeys,
                                                  dtype);
}

} // namespace

TensorArg::TensorArg(const at::Tensor& tensor, bool is_written) {
  if (!tensor.defined()) {
    return;
  }
  const auto* impl = tensor.unsafeGetTensorImpl();
  dtype_ = tensor.scalar_type();
  const auto at_most_two = [](int64_t count) {
    return static_cast<uint16_t>(std::min<int64_t>(count, 2));
  };
  form_ = 1 + at_most_two(impl->numel()) + 3 * at_most_two(impl->dim()) +
          9 * static_cast<uint16_t>(dtype_);
  wrapped_number_ = impl->is_wrapped_number();
  conj_ = tensor.is_conj();
  neg_ = tensor.is_neg();
  if (C10_UNLIKELY(!tensor.is_privateuseone())) {
    capture_host(tensor, is_written);
    return;
  }
  if (C10_UNLIKELY(tensor._is_zerotensor())) {
    // It has no memory. What a copy of it frees is used again in the stream's order.
    TORCH_CHECK(!is_written,
                "ZeroTensors are immutable. Please materialize the tensor using `.clone()`, if you "
                "want a mutable zero tensor.");
    *this = TensorArg(tensor.clone());
    return;
  }
  kind_ = Kind::Device;
  const auto sizes = tensor.sizes();
  sizes_and_strides_.resize(sizes.size());
  sizes_and_strides_.set_sizes(sizes);
  sizes_and_strides_.set_strides(tensor.strides());
  const auto& storage = impl->unsafe_storage();
  base_ = is_written ? storage.mutable_data() : const_cast<void*>(storage.data());
  nbytes_ = storage.nbytes();
  offset_ = impl->storage_offset();
}

void TensorArg::capture_host(const at::Tensor& tensor, bool is_written) {
  TORCH_CHECK(!is_written,
              "Expected all tensors to be on the same device, but found at least two devices: an "
              "output on ",
              tensor.device(), ", and openreg");
  TORCH_CHECK(tensor.is_cpu(),
              "Expected all tensors to be on the same device, but found at least two devices, "
              "openreg and ",
              tensor.device(), "!");
  if (tensor.dim() > 0) {
    c10::openreg::check_not_capturing(
        c10::openreg::current_stream_handle(c10::openreg::current_device()),
        "a CPU tensor as an argument");
  }
  const auto sizes = tensor.sizes();
  sizes_and_strides_.resize(sizes.size());
  sizes_and_strides_.set_sizes(sizes);
  const at::Tensor contiguous = tensor.contiguous();
  sizes_and_strides_.set_strides(contiguous.strides());
  // contiguous() has resolved neither bit for an already contiguous tensor.
  nbytes_ = contiguous.nbytes();
  const void* source = contiguous.const_data_ptr();
  if (nbytes_ <= sizeof(value_)) {
    kind_ = Kind::Inline;
    std::memcpy(value_, source, nbytes_);
  } else {
    kind_ = Kind::Host;
    host_.reset(new char[nbytes_]);
    std::memcpy(host_.get(), source, nbytes_);
  }
  conj_ = contiguous.is_conj();
  neg_ = contiguous.is_neg();
}

void* TensorArg::storage_bytes() const {
  switch (kind_) {
    case Kind::Device:
      return C10_UNLIKELY(zero_aliases != nullptr) ? zero_aliases->memory_for(base_, nbytes_)
                                                   : backing_or_null(base_);
    case Kind::Inline:
      return const_cast<char*>(value_);
    case Kind::Host:
      return host_.get();
    case Kind::Undefined:
      break;
  }
  return nullptr;
}

void* TensorArg::address() const {
  return static_cast<char*>(storage_bytes()) + offset_ * c10::elementSize(dtype_);
}

const at::Tensor& TensorArg::materialize() const {
  static const at::Tensor undefined;
  if (!defined()) {
    return undefined;
  }
  const at::Tensor& alias = AliasPool::of_thread().make(storage_bytes(), nbytes_, offset_, dtype_,
                                                        sizes_and_strides_.sizes_arrayref(),
                                                        sizes_and_strides_.strides_arrayref());
  auto* impl = alias.unsafeGetTensorImpl();
  if (C10_UNLIKELY(wrapped_number_ || conj_ || neg_)) {
    if (wrapped_number_) {
      impl->set_wrapped_number(true);
    }
    if (conj_) {
      alias._set_conj(true);
    }
    if (neg_) {
      alias._set_neg(true);
    }
  }
  if (C10_UNLIKELY(with_ones && zero_aliases != nullptr && kind_ == Kind::Device)) {
    alias.fill_(1);
  }
  return alias;
}

bool& rehearses_with_ones() {
  return with_ones;
}

size_t TensorArg::size_in_bytes() const {
  return c10::multiply_integers(sizes_and_strides_.sizes_arrayref()) * c10::elementSize(dtype_);
}

ZeroAliases::ZeroAliases() {
  zero_aliases = this;
}

ZeroAliases::~ZeroAliases() {
  zero_aliases = nullptr;
}

ZeroAliases* ZeroAliases::of_thread() {
  return zero_aliases;
}

void* ZeroAliases::memory_for(void* base, size_t nbytes) {
  if (base == nullptr) {
    return nullptr;
  }
  // Aligned as the CPU allocator does, which kernels' vector instructions count on.
  const size_t space = nbytes + c10::gAlignment;
  const auto it = memory_.try_emplace(base, std::calloc(space, 1), &std::free).first;
  if (it->second == nullptr) {
    throw std::bad_alloc();
  }
  void* data = it->second.get();
  size_t left = space;
  return std::align(c10::gAlignment, nbytes, data, left);
}

AliasPool& AliasPool::of_thread() {
  thread_local AliasPool pool;
  return pool;
}

AliasPool::Scope::Scope() {
  of_thread().used_ = 0;
}

AliasPool::Scope::~Scope() {
  // A large argument list shall not stay for ever.
  constexpr size_t kKept = 32;
  auto& tensors = of_thread().tensors_;
  while (tensors.size() > kKept) {
    tensors.pop_back();
  }
}

const at::Tensor& AliasPool::make(void* data,
                                  size_t nbytes,
                                  int64_t offset,
                                  at::ScalarType dtype,
                                  c10::IntArrayRef sizes,
                                  c10::IntArrayRef strides) {
  if (used_ == tensors_.size()) {
    tensors_.emplace_back();
  }
  at::Tensor& tensor = tensors_[used_++];
  const auto type = c10::scalarTypeToTypeMeta(dtype);
  c10::TensorImpl* impl = tensor.unsafeGetTensorImpl();
  const bool reusable = tensor.defined() && tensor.use_count() == 1 &&
                        tensor.storage().use_count() == 1 && impl->key_set() == kCpuKeys &&
                        !impl->is_wrapped_number() && impl->dtype() == type;
  if (C10_LIKELY(reusable)) {
    auto* storage = tensor.storage().unsafeGetStorageImpl();
    storage->set_data_ptr_noswap(borrowed(data));
    storage->set_nbytes(nbytes);
  } else {
    tensor = new_alias(data, nbytes, type);
    impl = tensor.unsafeGetTensorImpl();
  }
  impl->set_storage_offset(offset);
  impl->set_sizes_and_strides(sizes, strides);
  return tensor;
}

c10::Storage alias_storage(const c10::Storage& storage) {
  return c10::Storage(c10::make_intrusive<c10::StorageImpl>(
      c10::StorageImpl::use_byte_size_t(), storage.nbytes(),
      borrowed(backing_or_null(const_cast<void*>(storage.data()))),
      c10::GetAllocator(c10::DeviceType::CPU),
      /*resizable=*/true));
}

at::Tensor alias_tensor(const at::Tensor& tensor, c10::Storage aliased_storage) {
  const auto* impl = tensor.unsafeGetTensorImpl();
  at::Tensor alias = at::detail::make_tensor<c10::TensorImpl>(std::move(aliased_storage), kCpuKeys,
                                                              tensor.dtype());
  auto* alias_impl = alias.unsafeGetTensorImpl();
  alias_impl->set_storage_offset(impl->storage_offset());
  alias_impl->set_sizes_and_strides(tensor.sizes(), tensor.strides());
  if (impl->is_wrapped_number()) {
    alias_impl->set_wrapped_number(true);
  }
  if (tensor.is_conj()) {
    alias._set_conj(true);
  }
  if (tensor.is_neg()) {
    alias._set_neg(true);
  }
  return alias;
}

} // namespace at::openreg
