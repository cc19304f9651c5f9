// The boxed fallback: every operator with a CPU kernel, ATen's or another
// library's, that has no asynchronous registration. Waits for the stream, runs
// the CPU kernel on the calling thread with aliases of the arguments, and takes
// its results over where they lie. Nothing is copied.
//
// Note [Adoption]
// While the kernel runs, its allocations come from the device (Note [Kernel
// memory]). So a result's storage can become a device storage by a change of
// owner. Three cases must not be adopted: a result that is an argument (returned
// as such), a result that shares an argument's storage (becomes a view of it),
// and memory the kernel got elsewhere (copied).

#include "aten/Fallback.h"

#include <torch/library.h>

#include <cstring>
#include <unordered_map>

#include "aten/FallbackLog.h"
#include "aten/Random.h"
#include "device/openreg_kernel.h"
#include "kernels/AliasPool.h"
#include "kernels/KernelScope.h"

namespace at::openreg {
namespace {

namespace CachingAllocator = c10::openreg::CachingAllocator;

// Operators of ATen that take CPU tensors of any size beside device tensors.
bool allows_cpu_tensors(const c10::OperatorName& name) {
  static const std::unordered_map<std::string, int> names = {
      {"aten::index.Tensor_out", 0},
      {"aten::_index_put_impl_", 0},
      {"aten::index_put_", 0},
      {"aten::_ctc_loss.Tensor", 0},
      {"aten::_ctc_loss_backward.Tensor", 0},
      {"aten::_pack_padded_sequence", 0},
      {"aten::_fused_adam_", 0},
      {"aten::_fused_adamw_", 0},
      {"aten::_fused_adagrad_", 0},
  };
  return name.name.rfind("aten::", 0) != 0 || names.count(c10::toString(name)) > 0;
}

class FallbackCall {
 public:
  FallbackCall(const c10::OperatorHandle& op, torch::jit::Stack* stack) : op_(op), stack_(stack) {}

  void run() {
    const auto& schema = op_.schema();
    const auto count = schema.arguments().size();
    auto arguments = torch::jit::last(*stack_, count);
    for (const auto& argument : arguments) {
      find_device(argument);
    }
    TORCH_CHECK_NOT_IMPLEMENTED(device_ >= 0 &&
                                    op_.hasComputedKernelForDispatchKey(c10::DispatchKey::CPU),
                                "Could not run '", op_.operator_name(),
                                "' with arguments from the 'openreg' backend: "
                                "it has no CPU kernel that the device could run");
    log_fallback(c10::toString(op_.operator_name()));
    const orStream_t stream = c10::openreg::current_stream_handle(device_);
    OPENREG_CHECK(orStreamSynchronize(stream));
    const size_t begin = stack_->size() - count;
    for (size_t i = 0; i < count; ++i) {
      (*stack_)[begin + i] = to_alias((*stack_)[begin + i], schema.arguments()[i].name());
    }
    run_on_host_thread(device_, stream, [this] {
      op_.redispatchBoxed(c10::DispatchKeySet(c10::DispatchKey::CPU), stack_);
    });
    if (draw_.has_value()) {
      draw_.reset();
    }
    const size_t returns = schema.returns().size();
    for (auto& argument : originals_) {
      update_original(argument);
    }
    for (size_t i = stack_->size() - returns; i < stack_->size(); ++i) {
      (*stack_)[i] = to_device((*stack_)[i]);
    }
  }

 private:
  struct Original {
    at::Tensor tensor;
    at::Tensor alias;
  };

  void find_device(const c10::IValue& value) {
    if (value.isTensor()) {
      const auto& tensor = value.toTensor();
      if (tensor.defined() && tensor.is_privateuseone() && device_ < 0) {
        device_ = tensor.get_device();
      }
    } else if (value.isTensorList()) {
      for (const at::Tensor& tensor : value.toTensorList()) {
        find_device(tensor);
      }
    } else if (value.isList()) {
      for (const c10::IValue& element : value.toListRef()) {
        find_device(element);
      }
    } else if (value.isDevice() && value.toDevice().is_privateuseone() && device_ < 0) {
      device_ = c10::openreg::with_index(value.toDevice()).index();
    }
  }

  c10::IValue to_alias(const c10::IValue& value, const std::string& argument) {
    if (value.isTensor()) {
      return alias_of(value.toTensor(), argument);
    }
    if (value.isTensorList()) {
      c10::List<at::Tensor> list;
      for (const at::Tensor& tensor : value.toTensorList()) {
        list.push_back(alias_of(tensor, argument));
      }
      return list;
    }
    if (value.isOptionalTensorList()) {
      c10::List<std::optional<at::Tensor>> list;
      for (const std::optional<at::Tensor>& tensor : value.toOptionalTensorList()) {
        list.push_back(tensor.has_value() ? std::optional(alias_of(*tensor, argument))
                                          : std::nullopt);
      }
      return list;
    }
    if (value.isDevice() && value.toDevice().is_privateuseone()) {
      return c10::Device(c10::DeviceType::CPU);
    }
    if (value.isGenerator() && value.toGenerator().device().is_privateuseone()) {
      draw_ = draw_from(value.toGenerator(), device_);
      return draw_->generator;
    }
    if (value.isNone() && argument == "generator") {
      draw_ = draw_from(std::nullopt, device_);
      return draw_->generator;
    }
    return value;
  }

  at::Tensor alias_of(const at::Tensor& tensor, const std::string& argument) {
    if (!tensor.defined()) {
      return tensor;
    }
    if (!tensor.is_privateuseone()) {
      TORCH_CHECK(tensor.dim() == 0 || allows_cpu_tensors(op_.operator_name()),
                  "Expected all tensors to be on the same device, but got ", argument, " is on ",
                  tensor.device(), ", different from other tensors on openreg:", int(device_),
                  " (when checking argument in method wrapper_openreg_", op_.operator_name(), ")");
      return tensor;
    }
    TORCH_CHECK(tensor.get_device() == device_,
                "Expected all tensors to be on the same device, but got ", argument, " is on ",
                tensor.device(), ", different from other tensors on openreg:", int(device_),
                " (when checking argument in method wrapper_openreg_", op_.operator_name(), ")");
    TORCH_CHECK_NOT_IMPLEMENTED(tensor.layout() == at::kStrided, "openreg has no ", tensor.layout(),
                                " kernel for '", op_.operator_name(), "'");
    for (const auto& original : originals_) {
      if (original.tensor.is_same(tensor)) {
        return original.alias;
      }
    }
    const at::Storage& storage = tensor.storage();
    auto [it, is_new] = storages_.try_emplace(storage.unsafeGetStorageImpl());
    if (is_new) {
      // The kernel may write: a copy-on-write storage gets its copy now.
      storage.mutable_data();
      it->second = {storage, alias_storage(storage)};
    }
    originals_.push_back({tensor, alias_tensor(tensor, it->second.second)});
    return originals_.back().alias;
  }

  // The device storage for a storage that the kernel returned.
  at::Storage device_storage(const at::Storage& storage) {
    for (const auto& entry : storages_) {
      if (entry.second.second.is_alias_of(storage)) {
        return entry.second.first;
      }
    }
    auto [it, is_new] = adopted_.try_emplace(storage.unsafeGetStorageImpl());
    if (is_new) {
      it->second = {storage, at::Storage(c10::make_intrusive<c10::StorageImpl>(
                                 c10::StorageImpl::use_byte_size_t(), storage.nbytes(),
                                 take_over(storage), CachingAllocator::get(),
                                 /*resizable=*/true))};
    }
    return it->second.second;
  }

  // A device DataPtr with the bytes of a CPU storage, by change of owner if its
  // memory is the device's.
  c10::DataPtr take_over(const at::Storage& storage) {
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

  // An argument whose storage or geometry the kernel changed (out= that grew).
  void update_original(const Original& original) {
    const at::Storage& device = original.tensor.storage();
    const at::Storage& alias = original.alias.storage();
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
      original.tensor.unsafeGetTensorImpl()->set_storage_keep_dtype(device_storage(alias));
    }
    auto* impl = original.tensor.unsafeGetTensorImpl();
    if (impl->sizes() != original.alias.sizes() || impl->strides() != original.alias.strides() ||
        impl->storage_offset() != original.alias.storage_offset()) {
      impl->set_storage_offset(original.alias.storage_offset());
      impl->set_sizes_and_strides(original.alias.sizes(), original.alias.strides());
    }
    if (original.tensor.is_conj() != original.alias.is_conj()) {
      original.tensor._set_conj(original.alias.is_conj());
    }
  }

  at::Tensor tensor_to_device(const at::Tensor& tensor) {
    if (!tensor.defined() || !tensor.is_cpu()) {
      return tensor;
    }
    for (const auto& original : originals_) {
      if (original.alias.is_same(tensor)) {
        return original.tensor;
      }
    }
    TORCH_CHECK_NOT_IMPLEMENTED(tensor.layout() == at::kStrided && !tensor.is_quantized(), "'",
                                op_.operator_name(), "' makes a tensor of layout ", tensor.layout(),
                                ", which openreg does not have");
    at::Tensor result = at::detail::make_tensor<c10::TensorImpl>(
        device_storage(tensor.storage()), c10::DispatchKeySet(c10::DispatchKey::PrivateUse1),
        tensor.dtype());
    auto* impl = result.unsafeGetTensorImpl();
    impl->set_storage_offset(tensor.storage_offset());
    impl->set_sizes_and_strides(tensor.sizes(), tensor.strides());
    if (tensor.is_conj()) {
      result._set_conj(true);
    }
    if (tensor.is_neg()) {
      result._set_neg(true);
    }
    return result;
  }

  c10::IValue to_device(const c10::IValue& value) {
    if (value.isTensor()) {
      return tensor_to_device(value.toTensor());
    }
    if (value.isTensorList()) {
      c10::List<at::Tensor> list;
      for (const at::Tensor& tensor : value.toTensorList()) {
        list.push_back(tensor_to_device(tensor));
      }
      return list;
    }
    return value;
  }

  const c10::OperatorHandle& op_;
  torch::jit::Stack* stack_;
  c10::DeviceIndex device_ = -1;
  std::optional<OpenRegGeneratorImpl::Draw> draw_;
  std::vector<Original> originals_;
  // Device storage -> itself and its alias.
  std::unordered_map<c10::StorageImpl*, std::pair<at::Storage, at::Storage>> storages_;
  // Storage made by the kernel -> itself (kept, so that its address stays
  // unique) and the device storage that took it over.
  std::unordered_map<c10::StorageImpl*, std::pair<at::Storage, at::Storage>> adopted_;
};

} // namespace

void fallback(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  FallbackCall(op, stack).run();
}

TORCH_LIBRARY_IMPL(_, PrivateUse1, m) {
  m.fallback(torch::CppFunction::makeFromBoxedFunction<&fallback>());
}

} // namespace at::openreg
