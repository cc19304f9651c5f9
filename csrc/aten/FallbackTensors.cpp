#include "aten/FallbackTensors.h"

#include <ATen/NestedTensorImpl.h>
#include <ATen/SparseCsrTensorImpl.h>
#include <ATen/SparseTensorImpl.h>
#include <ATen/quantized/QTensorImpl.h>
#include <ATen/quantized/Quantizer.h>
#include <c10/core/DeviceGuard.h>

#include <cstring>

#include "device/openreg_kernel.h"
#include "kernels/AliasPool.h"
#include "kernels/KernelScope.h"
#include "runtime/CachingAllocator.h"
#include "runtime/Dtypes.h"
#include "runtime/Stream.h"

namespace at::openreg {
namespace {

namespace CachingAllocator = c10::openreg::CachingAllocator;

using at::native::NestedTensorImpl;

at::SparseTensorImpl* sparse_coo_impl(const at::Tensor& tensor) {
  return static_cast<at::SparseTensorImpl*>(tensor.unsafeGetTensorImpl());
}

at::SparseCsrTensorImpl* sparse_compressed_impl(const at::Tensor& tensor) {
  return static_cast<at::SparseCsrTensorImpl*>(tensor.unsafeGetTensorImpl());
}

bool is_sparse_compressed(const at::Tensor& tensor) {
  return tensor.key_set().has(c10::DispatchKey::SparseCsr);
}

bool is_nested(const at::Tensor& tensor) {
  return tensor.key_set().has(c10::DispatchKey::NestedTensor);
}

c10::DispatchKey
on_device_of(const at::Tensor& tensor, c10::DispatchKey cpu, c10::DispatchKey device) {
  return tensor.is_privateuseone() ? device : cpu;
}

void set_geometry(c10::TensorImpl* impl, const at::Tensor& like) {
  impl->set_storage_offset(like.storage_offset());
  impl->set_sizes_and_strides(like.sizes(), like.strides());
}

void set_bits(const at::Tensor& tensor, const at::Tensor& like) {
  if (like.is_conj()) {
    tensor._set_conj(true);
  }
  if (like.is_neg()) {
    tensor._set_neg(true);
  }
}

at::Tensor quantized_of(c10::Storage storage,
                        c10::DispatchKey key,
                        const at::Tensor& like,
                        at::QuantizerPtr quantizer) {
  at::Tensor result = at::detail::make_tensor<at::QTensorImpl>(
      std::move(storage), c10::DispatchKeySet(key), like.dtype(), std::move(quantizer));
  set_geometry(result.unsafeGetTensorImpl(), like);
  return result;
}

// `like`'s geometry over `storage`. The sizes, strides and offsets of a nested
// tensor are host tensors. Its autograd keys come from the buffer's.
at::Tensor
nested_of(c10::Storage storage, c10::DispatchKey key, const at::Tensor& like, bool copy_sizes) {
  const auto* impl = static_cast<const NestedTensorImpl*>(like.unsafeGetTensorImpl());
  const auto metadata = [&](const at::Tensor& tensor) {
    return copy_sizes ? tensor.clone() : tensor;
  };
  const at::Tensor buffer = at::detail::make_tensor<c10::TensorImpl>(
      std::move(storage), c10::DispatchKeySet(key), like.dtype());
  return at::detail::make_tensor<NestedTensorImpl>(buffer, metadata(impl->get_nested_sizes()),
                                                   metadata(impl->get_nested_strides()),
                                                   metadata(impl->get_storage_offsets()));
}

} // namespace

at::Tensor sparse_coo_of(const at::Tensor& indices,
                         const at::Tensor& values,
                         c10::IntArrayRef sizes,
                         int64_t sparse_dim,
                         int64_t dense_dim,
                         bool coalesced) {
  const c10::DeviceGuard guard(values.device());
  at::Tensor result = at::detail::make_tensor<at::SparseTensorImpl>(
      c10::DispatchKeySet(
          on_device_of(values, c10::DispatchKey::SparseCPU, c10::DispatchKey::SparsePrivateUse1)),
      values.dtype());
  auto* impl = sparse_coo_impl(result);
  impl->raw_resize_(sparse_dim, dense_dim, sizes);
  impl->set_indices_and_values_unsafe(indices, values);
  impl->set_coalesced(coalesced);
  return result;
}

at::Tensor sparse_compressed_of(const at::Tensor& compressed_indices,
                                const at::Tensor& plain_indices,
                                const at::Tensor& values,
                                c10::IntArrayRef sizes,
                                c10::Layout layout) {
  at::Tensor result = at::detail::make_tensor<at::SparseCsrTensorImpl>(
      c10::DispatchKeySet(on_device_of(values, c10::DispatchKey::SparseCsrCPU,
                                       c10::DispatchKey::SparseCsrPrivateUse1)),
      values.device(), layout, values.dtype());
  sparse_compressed_impl(result)->set_member_tensors(compressed_indices, plain_indices, values,
                                                     sizes);
  return result;
}

at::Tensor FallbackTensors::alias_of(const at::Tensor& tensor) {
  for (const auto& argument : arguments_) {
    if (argument.tensor.is_same(tensor)) {
      return argument.alias;
    }
  }
  at::Tensor alias = new_alias(tensor);
  arguments_.push_back({tensor, alias});
  return alias;
}

at::Tensor FallbackTensors::new_alias(const at::Tensor& tensor) {
  if (tensor.is_sparse()) {
    auto* impl = sparse_coo_impl(tensor);
    return sparse_coo_of(alias_of(impl->indices()), alias_of(impl->values()), tensor.sizes(),
                         impl->sparse_dim(), impl->dense_dim(), impl->coalesced());
  }
  if (is_sparse_compressed(tensor)) {
    auto* impl = sparse_compressed_impl(tensor);
    return sparse_compressed_of(alias_of(impl->compressed_indices()),
                                alias_of(impl->plain_indices()), alias_of(impl->values()),
                                tensor.sizes(), tensor.layout());
  }
  if (is_nested(tensor)) {
    return nested_of(aliased_storage(tensor), c10::DispatchKey::CPU, tensor,
                     /*copy_sizes=*/false);
  }
  if (tensor.is_quantized()) {
    const auto quantizer = convert_quantizer(
        at::get_qtensorimpl(tensor)->quantizer(), [this](const at::Tensor& parameter) {
          return parameter.is_privateuseone() ? alias_of(parameter) : parameter;
        });
    return quantized_of(aliased_storage(tensor), c10::DispatchKey::QuantizedCPU, tensor, quantizer);
  }
  TORCH_CHECK_NOT_IMPLEMENTED(tensor.layout() == at::kStrided, "openreg has no tensors of layout ",
                              tensor.layout());
  return alias_tensor(tensor, aliased_storage(tensor));
}

const c10::Storage& FallbackTensors::aliased_storage(const at::Tensor& tensor) {
  const c10::Storage& storage = tensor.unsafeGetTensorImpl()->unsafe_storage();
  auto [it, is_new] = storages_.try_emplace(storage.unsafeGetStorageImpl());
  if (is_new) {
    // The kernel may write: a copy-on-write storage gets its copy now.
    storage.mutable_data();
    it->second = {storage, alias_storage(storage)};
  }
  return it->second.second;
}

template <class Convert>
at::QuantizerPtr FallbackTensors::convert_quantizer(const at::QuantizerPtr& quantizer,
                                                    Convert convert) {
  for (const auto& [first, second] : quantizers_) {
    if (first == quantizer) {
      return second;
    }
    if (second == quantizer) {
      return first;
    }
  }
  const auto scheme = quantizer->qscheme();
  at::QuantizerPtr converted = quantizer;
  if (scheme == at::kPerChannelAffine) {
    const auto* channels = static_cast<at::PerChannelAffineQuantizer*>(quantizer.get());
    converted = c10::make_intrusive<at::PerChannelAffineQuantizer>(
        quantizer->scalar_type(), convert(channels->scales()), convert(channels->zero_points()),
        channels->axis());
  } else if (scheme == at::kPerChannelAffineFloatQParams) {
    const auto* channels = static_cast<at::PerChannelAffineFloatQParamsQuantizer*>(quantizer.get());
    converted = c10::make_intrusive<at::PerChannelAffineFloatQParamsQuantizer>(
        quantizer->scalar_type(), convert(channels->scales()), convert(channels->zero_points()),
        channels->axis());
  }
  quantizers_.emplace_back(quantizer, converted);
  return converted;
}

void FallbackTensors::update_arguments() {
  // Components stand before the tensors that have them. The list may grow.
  for (size_t i = 0; i < arguments_.size(); ++i) {
    const Argument argument = arguments_[i];
    update(argument);
  }
}

void FallbackTensors::update(const Argument& argument) {
  const auto& [tensor, alias] = argument;
  if (tensor.is_sparse()) {
    auto* impl = sparse_coo_impl(tensor);
    const auto* made = sparse_coo_impl(alias);
    const at::Tensor indices = to_device(made->indices());
    const at::Tensor values = to_device(made->values());
    if (!indices.is_same(impl->indices()) || !values.is_same(impl->values()) ||
        impl->sizes() != made->sizes()) {
      impl->raw_resize_(made->sparse_dim(), made->dense_dim(), made->sizes());
      impl->set_indices_and_values_unsafe(indices, values);
    }
    if (impl->coalesced() != made->coalesced()) {
      impl->set_coalesced(made->coalesced());
    }
  } else if (is_sparse_compressed(tensor)) {
    auto* impl = sparse_compressed_impl(tensor);
    const auto* made = sparse_compressed_impl(alias);
    const at::Tensor compressed = to_device(made->compressed_indices());
    const at::Tensor plain = to_device(made->plain_indices());
    const at::Tensor values = to_device(made->values());
    if (!compressed.is_same(impl->compressed_indices()) || !plain.is_same(impl->plain_indices()) ||
        !values.is_same(impl->values()) || impl->sizes() != made->sizes()) {
      impl->set_member_tensors(compressed, plain, values, made->sizes());
    }
  } else {
    update_storage(argument);
    if (tensor.is_quantized()) {
      at::get_qtensorimpl(tensor)->set_quantizer_(
          convert_quantizer(at::get_qtensorimpl(alias)->quantizer(),
                            [this](const at::Tensor& parameter) { return to_device(parameter); }));
    }
  }
}

void FallbackTensors::update_storage(const Argument& argument) {
  const at::Tensor& tensor = argument.tensor;
  auto* impl = tensor.unsafeGetTensorImpl();
  const c10::Storage& device = impl->unsafe_storage();
  const c10::Storage& alias = argument.alias.unsafeGetTensorImpl()->unsafe_storage();
  const auto& pair = storages_.at(device.unsafeGetStorageImpl());
  if (alias.is_alias_of(pair.second)) {
    const bool moved = alias.nbytes() > 0 &&
                       (device.data() == nullptr || alias.data() != orBacking(device.data()));
    if (moved) {
      const size_t nbytes = alias.nbytes();
      device.set_data_ptr_noswap(take_over(alias));
      device.set_nbytes(nbytes);
    }
  } else {
    impl->set_storage_keep_dtype(device_storage(alias));
  }
  if (is_nested(tensor)) {
    return;
  }
  const at::Tensor& made = argument.alias;
  if (impl->sizes() != made.sizes() || impl->strides() != made.strides() ||
      impl->storage_offset() != made.storage_offset()) {
    set_geometry(impl, made);
  }
  if (tensor.is_conj() != made.is_conj()) {
    tensor._set_conj(made.is_conj());
  }
}

// The device storage for a storage that the kernel returned.
c10::Storage FallbackTensors::device_storage(const c10::Storage& storage) {
  for (const auto& entry : storages_) {
    if (entry.second.second.is_alias_of(storage)) {
      return entry.second.first;
    }
  }
  auto [it, is_new] = adopted_.try_emplace(storage.unsafeGetStorageImpl());
  if (is_new) {
    it->second = {storage, c10::Storage(c10::make_intrusive<c10::StorageImpl>(
                               c10::StorageImpl::use_byte_size_t(), storage.nbytes(),
                               take_over(storage), CachingAllocator::get(),
                               /*resizable=*/true))};
  }
  return it->second.second;
}

// A device DataPtr with the bytes of a CPU storage, by change of owner if its
// memory is the device's.
c10::DataPtr FallbackTensors::take_over(const c10::Storage& storage) {
  auto& data = const_cast<c10::DataPtr&>(storage.data_ptr());
  const auto memory = release_kernel_memory(data);
  if (memory.block != nullptr) {
    return CachingAllocator::to_data_ptr(memory, device_);
  }
  c10::DataPtr copy = CachingAllocator::allocate(storage.nbytes(), device_,
                                                 c10::openreg::current_stream_handle(device_),
                                                 CachingAllocator::Order::Execution);
  if (storage.nbytes() > 0 && storage.data() != nullptr) {
    std::memcpy(orBacking(copy.get()), storage.data(), storage.nbytes());
  }
  return copy;
}

at::Tensor FallbackTensors::to_device(const at::Tensor& tensor) {
  if (!tensor.defined() || !tensor.is_cpu()) {
    return tensor;
  }
  for (const auto& argument : arguments_) {
    if (argument.alias.is_same(tensor)) {
      return argument.tensor;
    }
  }
  return new_on_device(tensor);
}

at::Tensor FallbackTensors::new_on_device(const at::Tensor& tensor) {
  if (tensor.is_sparse()) {
    const auto* impl = sparse_coo_impl(tensor);
    return sparse_coo_of(to_device(impl->indices()), to_device(impl->values()), tensor.sizes(),
                         impl->sparse_dim(), impl->dense_dim(), impl->coalesced());
  }
  if (is_sparse_compressed(tensor)) {
    const auto* impl = sparse_compressed_impl(tensor);
    return sparse_compressed_of(to_device(impl->compressed_indices()),
                                to_device(impl->plain_indices()), to_device(impl->values()),
                                tensor.sizes(), tensor.layout());
  }
  if (is_nested(tensor)) {
    return nested_of(device_storage(tensor.unsafeGetTensorImpl()->unsafe_storage()),
                     c10::DispatchKey::PrivateUse1, tensor, /*copy_sizes=*/true);
  }
  if (tensor.is_quantized()) {
    const auto quantizer =
        convert_quantizer(at::get_qtensorimpl(tensor)->quantizer(),
                          [this](const at::Tensor& parameter) { return to_device(parameter); });
    return quantized_of(device_storage(tensor.storage()), c10::DispatchKey::QuantizedPrivateUse1,
                        tensor, quantizer);
  }
  TORCH_CHECK_NOT_IMPLEMENTED(tensor.layout() == at::kStrided, "openreg has no tensors of layout ",
                              tensor.layout());
  return strided_on_device(tensor);
}

at::Tensor FallbackTensors::strided_on_device(const at::Tensor& tensor) {
  c10::openreg::check_dtype(device_, tensor.scalar_type());
  at::Tensor result = at::detail::make_tensor<c10::TensorImpl>(
      device_storage(tensor.storage()), c10::DispatchKeySet(c10::DispatchKey::PrivateUse1),
      tensor.dtype());
  set_geometry(result.unsafeGetTensorImpl(), tensor);
  set_bits(result, tensor);
  return result;
}

} // namespace at::openreg
