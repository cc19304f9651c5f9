#include "aten/Boxed.h"

#include <c10/util/Exception.h>

#include "aten/Factories.h"
#include "aten/Fallback.h"
#include "aten/Launch.h"
#include "aten/Random.h"
#include "aten/Resize.h"
#include "kernels/BoxedArguments.h"
#include "kernels/Rehearsal.h"

namespace at::openreg {
namespace {

// A call as its launch holds it: tensors as addresses, the rest as values.
struct BoxedCall {
  c10::OperatorHandle op;
  std::shared_ptr<const Outcome> outcome;
  torch::jit::Stack arguments; // without their tensors
  std::vector<TensorArg> tensors;
  std::vector<TensorArg> outputs;

  void run() {
    write_outputs(outputs.data(), outputs.size(), [this](std::vector<at::Tensor>& results) {
      // The rehearsal has given the call's warnings.
      c10::WarningUtils::WarningHandlerGuard no_warnings(&ignored_);
      torch::jit::Stack stack;
      stack.reserve(arguments.size());
      size_t next = 0;
      for (const c10::IValue& value : arguments) {
        stack.push_back(
            map_tensors(value, [&](const at::Tensor&) { return tensors[next++].materialize(); }));
      }
      op.redispatchBoxed(c10::DispatchKeySet(c10::DispatchKey::CPU), &stack);
      size_t result = 0;
      for (const c10::IValue& value : stack) {
        for_each_tensor(value, [&](const at::Tensor& tensor) {
          if (outcome->results.at(result++).created.has_value()) {
            results.push_back(tensor);
          }
        });
      }
    });
  }

 private:
  struct Ignored final : c10::WarningHandler {
    void process(const c10::Warning&) override {}
  };
  static inline Ignored ignored_;
};

struct BoxedClosure {
  static constexpr bool kRelocatable = true;

  explicit BoxedClosure(std::unique_ptr<BoxedCall> c) : call(std::move(c)) {}

  void run() {
    call->run();
  }

  int threads = intra_op_threads();
  std::unique_ptr<BoxedCall> call;
};

// What a launch needs to know of the arguments before it is made.
class BoxedLaunch {
 public:
  BoxedLaunch(const c10::OperatorHandle& op, torch::jit::Stack* stack)
      : op_(op), schema_(op.schema()), stack_(stack),
        arguments_(torch::jit::last(*stack, op.schema().arguments().size())) {}

  bool is_possible() {
    if (!op_.hasComputedKernelForDispatchKey(c10::DispatchKey::CPU)) {
      return false;
    }
    bool plain = true;
    bool has_generator = false;
    for (size_t i = 0; i < arguments_.size(); ++i) {
      const auto& argument = schema_.arguments()[i];
      const c10::IValue& value = arguments_[i];
      has_generator |= argument.name() == "generator";
      plain &= !value.isGenerator() || value.toGenerator().device().is_privateuseone();
      if (value.isDevice() && value.toDevice().is_privateuseone() && device_ < 0) {
        device_ = c10::openreg::with_index(value.toDevice()).index();
      }
      const bool is_written = argument.alias_info() != nullptr && argument.alias_info()->isWrite();
      for_each_tensor(value, [&](const at::Tensor& tensor) {
        plain &= is_plain(tensor, is_written);
        tensors_.push_back(tensor);
        written_.push_back(is_written);
        is_out_.push_back(argument.is_out());
      });
    }
    // What draws without a generator argument draws from the CPU's default one.
    const bool draws = op_.hasTag(at::Tag::nondeterministic_seeded);
    if (!plain || device_ < 0 || (draws && !has_generator)) {
      return false;
    }
    // A kernel on the worker sees each argument as a tensor of its own.
    for (size_t i = 0; i < tensors_.size(); ++i) {
      for (size_t j = 0; j < tensors_.size() && written_[i]; ++j) {
        if (i != j && tensors_[i].defined() && tensors_[j].defined() &&
            tensors_[i].storage().is_alias_of(tensors_[j].storage())) {
          return false;
        }
      }
    }
    outcome_ = rehearse(op_, arguments_);
    if (outcome_ == nullptr) {
      return false;
    }
    // The kernel must find an argument that it reads as the caller gave it.
    for (const Outcome::Resized& resized : outcome_->resized) {
      if (!is_out_[resized.argument]) {
        return false;
      }
    }
    return true;
  }

  void launch() {
    for (const auto& [argument, geometry] : outcome_->resized) {
      resize_tensor_impl(tensors_[argument].unsafeGetTensorImpl(), geometry.sizes,
                         at::OptionalIntArrayRef(geometry.strides));
    }
    auto call = std::make_unique<BoxedCall>(BoxedCall{op_, outcome_, {}, {}, {}});
    std::optional<OpenRegGeneratorImpl::Draw> draw;
    for (size_t i = 0; i < arguments_.size(); ++i) {
      const c10::IValue& value = arguments_[i];
      const bool is_generator =
          value.isGenerator() || (value.isNone() && schema_.arguments()[i].name() == "generator");
      if (is_generator) {
        draw = draw_from(value.isNone() ? std::nullopt
                                        : std::optional<at::Generator>(value.toGenerator()),
                         device_);
        call->arguments.emplace_back(draw->generator);
      } else if (value.isDevice() && value.toDevice().is_privateuseone()) {
        call->arguments.emplace_back(c10::Device(c10::DeviceType::CPU));
      } else {
        call->arguments.push_back(
            map_tensors(value, [](const at::Tensor&) { return at::Tensor(); }));
      }
    }
    for (size_t i = 0; i < tensors_.size(); ++i) {
      call->tensors.emplace_back(tensors_[i], written_[i]);
    }
    std::vector<at::Tensor> results;
    for (const Outcome::Result& result : outcome_->results) {
      if (result.argument >= 0) {
        results.push_back(tensors_[result.argument]);
      } else if (result.created.has_value()) {
        const Geometry& g = *result.created;
        results.push_back(empty_strided_on(c10::Device(c10::DeviceType::PrivateUse1, device_),
                                           g.sizes, g.strides, g.dtype));
        call->outputs.emplace_back(results.back(), /*is_written=*/true);
      } else {
        results.emplace_back();
      }
    }
    submit<BoxedClosure>(device_, outcome_->name, std::move(call));
    give(results);
  }

 private:
  bool is_plain(const at::Tensor& tensor, bool is_written) {
    if (!tensor.defined()) {
      return true;
    }
    if (tensor.is_cpu()) {
      return tensor.dim() == 0 && !is_written && tensor.layout() == at::kStrided &&
             !tensor.is_quantized();
    }
    if (!tensor.is_privateuseone() || tensor.layout() != at::kStrided || tensor.is_quantized() ||
        !tensor.has_storage() || (device_ >= 0 && tensor.get_device() != device_)) {
      return false;
    }
    device_ = tensor.get_device();
    return true;
  }

  void give(const std::vector<at::Tensor>& results) {
    torch::jit::drop(*stack_, arguments_.size());
    size_t next = 0;
    for (const int64_t size : outcome_->list_sizes) {
      if (size < 0) {
        stack_->emplace_back(results[next++]);
        continue;
      }
      c10::List<at::Tensor> list;
      for (int64_t i = 0; i < size; ++i) {
        list.push_back(results[next++]);
      }
      stack_->emplace_back(std::move(list));
    }
  }

  const c10::OperatorHandle& op_;
  const c10::FunctionSchema& schema_;
  torch::jit::Stack* stack_;
  at::ArrayRef<c10::IValue> arguments_;
  std::vector<at::Tensor> tensors_;
  std::vector<bool> written_;
  std::vector<bool> is_out_;
  c10::DeviceIndex device_ = -1;
  std::shared_ptr<const Outcome> outcome_;
};

} // namespace

void launch_boxed(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  BoxedLaunch call(op, stack);
  if (call.is_possible()) {
    call.launch();
  } else {
    fallback(op, stack);
  }
}

} // namespace at::openreg
