#pragma once

// How an operator reaches the device: launch() captures a kernel's arguments
// by value and queues the call on the current stream.
//
// Note [Captured arguments]
// A launch outlives the call that made it, so everything it needs is copied
// into its closure: tensors as addresses with sizes and strides (the memory
// stays valid in stream order, see Note [Issue order and execution order]),
// lists as vectors, strings as strings. Capture<P> says for each parameter type
// of a kernel what is stored and what the kernel is given.

#include <ATen/Parallel.h>
#include <ATen/core/Generator.h>
#include <ATen/core/IListRef.h>
#include <ATen/core/List.h>
#include <ATen/core/Tensor.h>
#include <c10/core/Scalar.h>
#include <c10/util/OptionalArrayRef.h>
#include <c10/util/SmallVector.h>

#include <array>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "kernels/AliasPool.h"
#include "kernels/KernelScope.h"
#include "kernels/Rehearsal.h"
#include "runtime/Stream.h"

namespace at::openreg {

// A value that is its own copy: numbers, dtypes, scalars, generators, ...
template <class T>
struct Capture {
  T value;
  explicit Capture(T v) : value(std::move(v)) {}
  T get() {
    return value;
  }
};

template <>
struct Capture<std::optional<at::Generator>> {
  std::optional<at::Generator> value;
  explicit Capture(std::optional<at::Generator> v) : value(std::move(v)) {}
  const std::optional<at::Generator>& get() {
    return generator_of_kernel(value);
  }
};

template <>
struct Capture<const at::Scalar&> {
  at::Scalar value;
  explicit Capture(const at::Scalar& v) : value(v) {}
  const at::Scalar& get() {
    return value;
  }
};

template <>
struct Capture<const std::optional<at::Scalar>&> {
  std::optional<at::Scalar> value;
  explicit Capture(const std::optional<at::Scalar>& v) : value(v) {}
  const std::optional<at::Scalar>& get() {
    return value;
  }
};

template <>
struct Capture<const at::Tensor&> {
  TensorArg value;
  explicit Capture(const at::Tensor& v) : value(v) {}
  const at::Tensor& get() {
    return value.materialize();
  }
};

template <>
struct Capture<at::Tensor&> {
  TensorArg value;
  explicit Capture(const at::Tensor& v) : value(v, /*is_written=*/true) {}
  at::Tensor& get() {
    return const_cast<at::Tensor&>(value.materialize());
  }
};

template <>
struct Capture<const std::optional<at::Tensor>&> {
  TensorArg value;
  std::optional<at::Tensor> alias;
  explicit Capture(const std::optional<at::Tensor>& v)
      : value(v.has_value() ? TensorArg(*v) : TensorArg()) {}
  const std::optional<at::Tensor>& get() {
    const at::Tensor& tensor = value.materialize();
    // Held only while the kernel runs: the pool's reference is the other one.
    alias = tensor.defined() ? std::optional<at::Tensor>(tensor) : std::nullopt;
    return alias;
  }
  void release() {
    alias.reset();
  }
};

// Lists are mostly short: no heap for those, whose memory one thread would
// allocate and the other free.
class CapturedTensors {
 public:
  template <class List>
  explicit CapturedTensors(const List& tensors) {
    args_.reserve(tensors.size());
    for (const auto& tensor : tensors) {
      args_.emplace_back(tensor);
    }
  }
  CapturedTensors() = default;

  void push_back(TensorArg arg) {
    args_.push_back(std::move(arg));
  }

  const c10::SmallVector<TensorArg, 3>& args() const {
    return args_;
  }

  const std::vector<at::Tensor>& materialize() {
    aliases_.clear(); // a graph runs a launch again also when the kernel threw
    aliases_.reserve(args_.size());
    for (const auto& arg : args_) {
      aliases_.push_back(arg.materialize());
    }
    return aliases_;
  }

  void release() {
    aliases_.clear();
  }

 private:
  c10::SmallVector<TensorArg, 3> args_;
  std::vector<at::Tensor> aliases_;
};

template <>
struct Capture<const at::ITensorListRef&> {
  CapturedTensors value;
  std::optional<at::ITensorListRef> list;
  explicit Capture(const at::ITensorListRef& v) : value(v) {}
  const at::ITensorListRef& get() {
    list.emplace(at::TensorList(value.materialize()));
    return *list;
  }
  void release() {
    value.release();
    list.reset();
  }
};

template <>
struct Capture<at::TensorList> {
  CapturedTensors value;
  explicit Capture(at::TensorList v) : value(v) {}
  at::TensorList get() {
    return value.materialize();
  }
  void release() {
    value.release();
  }
};

template <>
struct Capture<const c10::List<std::optional<at::Tensor>>&> {
  CapturedTensors value;
  std::optional<c10::List<std::optional<at::Tensor>>> list;
  explicit Capture(const c10::List<std::optional<at::Tensor>>& v) {
    for (const std::optional<at::Tensor>& tensor : v) {
      value.push_back(tensor.has_value() ? TensorArg(*tensor) : TensorArg());
    }
  }
  const c10::List<std::optional<at::Tensor>>& get() {
    list.emplace();
    for (const auto& tensor : value.materialize()) {
      list->push_back(tensor.defined() ? std::optional<at::Tensor>(tensor) : std::nullopt);
    }
    return *list;
  }
  void release() {
    list.reset();
    value.release();
  }
};

template <class T>
struct Capture<at::ArrayRef<T>> {
  // Most are sizes and strides of few dimensions: no heap for those.
  static constexpr size_t kInline = 6;
  std::array<T, kInline> few;
  std::vector<T> many;
  size_t size;
  explicit Capture(at::ArrayRef<T> v) : size(v.size()) {
    if (size <= kInline) {
      std::copy(v.begin(), v.end(), few.begin());
    } else {
      many.assign(v.begin(), v.end());
    }
  }
  at::ArrayRef<T> get() {
    return {size <= kInline ? few.data() : many.data(), size};
  }
};

template <>
struct Capture<at::OptionalIntArrayRef> {
  std::optional<Capture<at::IntArrayRef>> value;
  explicit Capture(at::OptionalIntArrayRef v) {
    if (v.has_value()) {
      value.emplace(*v);
    }
  }
  at::OptionalIntArrayRef get() {
    return value ? at::OptionalIntArrayRef(value->get()) : std::nullopt;
  }
};

template <>
struct Capture<std::optional<at::ArrayRef<double>>> {
  std::optional<Capture<at::ArrayRef<double>>> value;
  explicit Capture(std::optional<at::ArrayRef<double>> v) {
    if (v.has_value()) {
      value.emplace(*v);
    }
  }
  std::optional<at::ArrayRef<double>> get() {
    return value ? std::optional(value->get()) : std::nullopt;
  }
};

template <>
struct Capture<std::string_view> {
  std::string value;
  explicit Capture(std::string_view v) : value(v) {}
  std::string_view get() {
    return value;
  }
};

template <>
struct Capture<std::optional<std::string_view>> {
  std::optional<std::string> value;
  explicit Capture(std::optional<std::string_view> v) : value(v) {}
  std::optional<std::string_view> get() {
    return value ? std::optional<std::string_view>(*value) : std::nullopt;
  }
};

// Parameters taken by const reference that are stored as values.
template <class P>
using CaptureOf =
    Capture<std::conditional_t<std::is_reference_v<P> &&
                                   !std::is_constructible_v<Capture<P>, const std::decay_t<P>&>,
                               std::decay_t<P>,
                               P>>;

// Whether a capture may be moved as bytes: true of all that hold no pointer into
// themselves.
template <class C>
inline constexpr bool is_relocatable = !requires(C c) { c.value.materialize().size(); } &&
                                       !std::is_same_v<C, Capture<std::string_view>> &&
                                       !std::is_same_v<C, Capture<std::optional<std::string_view>>>;

// A call of a kernel with captured arguments.
template <class R, class... P>
class KernelCall {
 public:
  using Function = R (*)(P...);
  static constexpr bool kRelocatable = (is_relocatable<CaptureOf<P>> && ...);

  template <class... A>
  explicit KernelCall(Function function, A&&... args)
      : function_(function), args_(std::forward<A>(args)...) {}

  R operator()() {
    return std::apply([this](auto&... arg) -> R { return function_(arg.get()...); }, args_);
  }

  // Drops what refers to the pool's aliases.
  void release() {
    std::apply([](auto&... arg) { (release_one(arg), ...); }, args_);
  }

  // A number for the kernel, its arguments' forms, and what flags and names choose.
  uint64_t signature() const {
    auto number = reinterpret_cast<uint64_t>(function_);
    const auto add = [&](uint64_t part) { number = (number ^ part) * 0x100000001b3; };
    for_each_value([&](const auto& value) {
      using Value = std::decay_t<decltype(value)>;
      if constexpr (std::is_same_v<Value, TensorArg>) {
        add(value.form());
      } else if constexpr (std::is_pointer_v<Value>) {
        add(reinterpret_cast<uint64_t>(value));
      } else if constexpr (std::is_same_v<Value, std::string>) {
        add(std::hash<std::string>()(value));
      } else if constexpr (std::is_same_v<Value, bool>) {
        add(value);
      }
    });
    return number;
  }

  size_t size_in_bytes() const {
    size_t size = 0;
    for_each_value([&](const auto& value) {
      if constexpr (std::is_same_v<std::decay_t<decltype(value)>, TensorArg>) {
        size += value.size_in_bytes();
      }
    });
    return size;
  }

 private:
  // Visits what is captured, the tensors of lists one by one.
  template <class F>
  void for_each_value(const F& visit) const {
    const auto each = [&](const auto& value) {
      if constexpr (std::is_same_v<std::decay_t<decltype(value)>, CapturedTensors>) {
        for (const TensorArg& arg : value.args()) {
          visit(arg);
        }
      } else {
        visit(value);
      }
    };
    const auto visit_capture = [&](const auto& arg) {
      if constexpr (requires { arg.value; }) {
        each(arg.value);
      }
    };
    std::apply([&](const auto&... arg) { (visit_capture(arg), ...); }, args_);
  }

  template <class C>
  static void release_one(C& capture) {
    if constexpr (requires { capture.release(); }) {
      capture.release();
    }
  }

  Function function_;
  std::tuple<CaptureOf<P>...> args_;
};

// A launch whose kernel writes into tensors it is given.
template <class Call>
struct InplaceClosure {
  static constexpr bool kRelocatable = Call::kRelocatable;

  template <class... A>
  explicit InplaceClosure(A&&... args) : call(std::forward<A>(args)...) {}

  [[gnu::noinline]] void run() {
    call();
    call.release();
  }

  int threads = intra_op_threads();
  Call call;
};

// A launch whose kernel returns new tensors: their values go to `outputs`,
// without a copy where the kernel's own allocation can be placed there.
OPENREG_API void write_outputs(const TensorArg* outputs,
                               size_t count,
                               c10::function_ref<void(std::vector<at::Tensor>&)> kernel);

inline void append_results(std::vector<at::Tensor>& results, at::Tensor result) {
  results.push_back(std::move(result));
}

template <class... T>
void append_results(std::vector<at::Tensor>& results, std::tuple<T...> tuple) {
  std::apply(
      [&](auto&&... result) {
        const auto append = [&](auto& value) {
          if constexpr (std::is_same_v<std::decay_t<decltype(value)>, at::Tensor>) {
            results.push_back(std::move(value));
          }
        };
        (append(result), ...);
      },
      tuple);
}

template <class Call, size_t N>
struct FunctionalClosure {
  static constexpr bool kRelocatable = Call::kRelocatable;

  template <class... A>
  explicit FunctionalClosure(const at::Tensor (&tensors)[N], A&&... args)
      : call(std::forward<A>(args)...) {
    for (size_t i = 0; i < N; ++i) {
      outputs[i] = TensorArg(tensors[i], /*is_written=*/true);
    }
  }

  [[gnu::noinline]] void run() {
    write_outputs(outputs.data(), N, [this](auto& results) { append_results(results, call()); });
    call.release();
  }

  int threads = intra_op_threads();
  Call call;
  std::array<TensorArg, N> outputs;
};

// Raises if the launch's kernel has no code for its dtypes, as far as that can be
// told at little cost.
template <class Closure>
void check_dtypes_of(Closure& closure, const char* name) {
  constexpr size_t kSmall = 4 << 20;
  const uint64_t signature = closure.call.signature();
  if (C10_UNLIKELY(!dtypes_are_known(signature)) && std::string_view(name).starts_with("aten::") &&
      closure.call.size_in_bytes() <= kSmall) {
    check_dtypes(signature, [&] { closure.run(); });
  }
}

// Queues Closure(args...) on the current stream of `device`. The closure is made
// here and moved once, into the queue.
template <class Closure, bool kRehearsed = true, class... A>
void submit(c10::DeviceIndex device, const char* name, A&&... args) {
  using Move = void (*)(void*, void*);
  static constexpr Move move =
      Closure::kRelocatable ? Move(nullptr) : Move([](void* target, void* source) {
        auto* from = static_cast<Closure*>(source);
        new (target) Closure(std::move(*from));
        from->~Closure();
      });
  static const orClosureType type = {
      sizeof(Closure),
      alignof(Closure),
      move,
      [](void* self, const orLaunchContext* context) {
        auto* closure = static_cast<Closure*>(self);
        return run_on_worker(context, closure->threads, [closure] { closure->run(); });
      },
      [](void* self) { static_cast<Closure*>(self)->~Closure(); },
      nullptr,
  };
  union Slot {
    Closure closure;
    explicit Slot(A&&... a) : closure(std::forward<A>(a)...) {}
    ~Slot() {}
  } slot(std::forward<A>(args)...);
  if constexpr (kRehearsed && requires { slot.closure.call.signature(); }) {
    try {
      check_dtypes_of(slot.closure, name);
    } catch (...) {
      slot.closure.~Closure();
      throw;
    }
  }
  const orError_t error =
      orLaunch(c10::openreg::current_stream_handle(device), name, &type, &slot.closure);
  if (C10_UNLIKELY(error != orSuccess)) {
    // A launch error means that the closure was taken and has ended.
    if (error < orErrorLaunchFailure) {
      slot.closure.~Closure();
    }
    OPENREG_CHECK(error);
  }
}

// Queues kernel(args...) on the current stream of `device`. `name` is the
// operator's and lives for ever. Arguments that the kernel writes to are
// tensors of the device with their final sizes. `kRehearsed`: the kernel may run
// on zeros, as one that trusts indices may not.
template <bool kRehearsed = true, class R, class... P, class... A>
void launch(c10::DeviceIndex device, const char* name, R (*kernel)(P...), A&&... args) {
  submit<InplaceClosure<KernelCall<R, P...>>, kRehearsed>(device, name, kernel,
                                                          std::forward<A>(args)...);
}

// The same for a kernel that returns its results; they are written to
// `outputs`, tensors of the device of the results' sizes and dtypes. An
// undefined output's result is dropped.
template <size_t N, class R, class... P, class... A>
void launch_functional(c10::DeviceIndex device,
                       const char* name,
                       const at::Tensor (&outputs)[N],
                       R (*kernel)(P...),
                       A&&... args) {
  submit<FunctionalClosure<KernelCall<R, P...>, N>>(device, name, outputs, kernel,
                                                    std::forward<A>(args)...);
}

} // namespace at::openreg
