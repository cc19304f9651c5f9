// The boxed fallback: every operator with a CPU kernel, ATen's or another
// library's, that has no asynchronous registration. Waits for the stream, runs
// the CPU kernel on the calling thread with aliases of the arguments, and takes
// its results over where they lie (FallbackTensors.h). Nothing is copied.

#include "aten/Fallback.h"

#include <torch/library.h>

#include <string>
#include <unordered_set>

#include "aten/FallbackLog.h"
#include "aten/FallbackTensors.h"
#include "aten/Random.h"
#include "kernels/KernelScope.h"
#include "runtime/Capture.h"
#include "runtime/Functions.h"

namespace at::openreg {
namespace {

// Operators of ATen that take CPU tensors of any size beside device tensors.
bool allows_cpu_tensors(const c10::OperatorName& name) {
  static const std::unordered_set<std::string> names = {
      "aten::index.Tensor_out",
      "aten::_index_put_impl_",
      "aten::index_fill_.int_Scalar",
      "aten::index_fill_.int_Tensor",
      "aten::index_put_",
      "aten::_ctc_loss.Tensor",
      "aten::_ctc_loss_backward.Tensor",
      "aten::_pack_padded_sequence",
      "aten::_fused_adam_",
      "aten::_fused_adamw_",
      "aten::_fused_adagrad_",
      "aten::_nested_from_padded",
      "aten::quantize_per_channel",
  };
  return name.name.rfind("aten::", 0) != 0 || names.count(c10::toString(name)) > 0;
}

// The key of the CPU kernel for tensors with these keys: the layout's that the
// dispatcher ranks highest.
c10::DispatchKey cpu_key(c10::DispatchKeySet keys) {
  constexpr c10::DispatchKeySet layouts({c10::DispatchKey::Dense, c10::DispatchKey::Quantized,
                                         c10::DispatchKey::Sparse, c10::DispatchKey::SparseCsr,
                                         c10::DispatchKey::NestedTensor});
  return ((keys & layouts) | c10::DispatchKeySet(c10::DispatchKey::CPU)).highestPriorityTypeId();
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
    TORCH_CHECK_NOT_IMPLEMENTED(device_ >= 0, "Could not run '", op_.operator_name(),
                                "' for the 'openreg' backend: no argument names a device");
    const orStream_t stream = c10::openreg::current_stream_handle(device_);
    c10::openreg::check_not_capturing(stream, schema.name().c_str());
    OPENREG_CHECK(orStreamSynchronize(stream));
    tensors_.emplace(device_);
    const size_t begin = stack_->size() - count;
    for (size_t i = 0; i < count; ++i) {
      (*stack_)[begin + i] = to_alias((*stack_)[begin + i], schema.arguments()[i]);
    }
    const c10::DispatchKey key = cpu_key(keys_);
    TORCH_CHECK_NOT_IMPLEMENTED(op_.hasComputedKernelForDispatchKey(key), "Could not run '",
                                op_.operator_name(),
                                "' with arguments from the 'openreg' backend: it has no ", key,
                                " kernel that the device could run");
    log_fallback(c10::toString(op_.operator_name()));
    run_on_host_thread(device_, stream,
                       [&] { op_.redispatchBoxed(c10::DispatchKeySet(key), stack_); });
    draw_.reset();
    tensors_->update_arguments();
    for (size_t i = stack_->size() - schema.returns().size(); i < stack_->size(); ++i) {
      (*stack_)[i] = to_device((*stack_)[i]);
    }
  }

 private:
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

  c10::IValue to_alias(const c10::IValue& value, const c10::Argument& argument) {
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
    if (value.isNone() && argument.name() == "generator") {
      draw_ = draw_from(std::nullopt, device_);
      return draw_->generator;
    }
    return value;
  }

  at::Tensor alias_of(const at::Tensor& tensor, const c10::Argument& argument) {
    if (!tensor.defined()) {
      return tensor;
    }
    if (!tensor.is_privateuseone()) {
      const bool is_number = tensor.dim() == 0 && !argument.is_out();
      check_device(tensor, argument, is_number || allows_cpu_tensors(op_.operator_name()));
      keys_ = keys_ | tensor.key_set();
      return tensor;
    }
    check_device(tensor, argument, tensor.get_device() == device_);
    at::Tensor alias = tensors_->alias_of(tensor);
    keys_ = keys_ | alias.key_set();
    return alias;
  }

  void check_device(const at::Tensor& tensor, const c10::Argument& argument, bool allowed) {
    TORCH_CHECK(allowed, "Expected all tensors to be on the same device, but got ", argument.name(),
                " is on ", tensor.device(),
                ", different from other tensors on openreg:", int(device_),
                " (when checking argument in method wrapper_openreg_", op_.operator_name(), ")");
  }

  c10::IValue to_device(const c10::IValue& value) {
    if (value.isTensor()) {
      return tensors_->to_device(value.toTensor());
    }
    if (value.isTensorList()) {
      c10::List<at::Tensor> list;
      for (const at::Tensor& tensor : value.toTensorList()) {
        list.push_back(tensors_->to_device(tensor));
      }
      return list;
    }
    return value;
  }

  const c10::OperatorHandle& op_;
  torch::jit::Stack* stack_;
  c10::DeviceIndex device_ = -1;
  c10::DispatchKeySet keys_; // of the aliases
  std::optional<FallbackTensors> tensors_;
  std::optional<OpenRegGeneratorImpl::Draw> draw_;
};

} // namespace

void fallback(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  FallbackCall(op, stack).run();
}

void fall_back_for_the_rest(torch::Library& library,
                            c10::DispatchKey cpu,
                            c10::DispatchKey device) {
  auto& dispatcher = c10::Dispatcher::singleton();
  for (const c10::OperatorName& name : dispatcher.getRegistrationsForDispatchKey(cpu)) {
    const auto op = dispatcher.findOp(name);
    if (name.getNamespace() == "aten" && op.has_value() && !op->hasKernelForDispatchKey(device)) {
      library.impl(c10::toString(name).c_str(),
                   torch::CppFunction::makeFromBoxedFunction<&fallback>());
    }
  }
}

TORCH_LIBRARY_IMPL(_, PrivateUse1, m) {
  m.fallback(torch::CppFunction::makeFromBoxedFunction<&fallback>());
}

} // namespace at::openreg
