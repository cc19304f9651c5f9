#include "kernels/Rehearsal.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Context.h>
#include <ATen/record_function.h>
#include <c10/core/DefaultDtype.h>
#include <c10/core/InferenceMode.h>
#include <c10/core/alignment.h>
#include <c10/core/impl/LocalDispatchKeySet.h>

#include <array>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <mutex>
#include <unordered_map>
#include <unordered_set>

#include "kernels/AliasPool.h"
#include "kernels/BoxedArguments.h"
#include "kernels/RehearsedData.h"

namespace at::openreg {
namespace {

// The arguments' geometry and values as words: calls of equal words have equal
// outcomes.
class Key {
 public:
  explicit Key(const c10::OperatorHandle& op) {
    words_.reserve(64);
    add(reinterpret_cast<int64_t>(&op.schema()));
    const auto& context = at::globalContext();
    add(static_cast<int64_t>(c10::typeMetaToScalarType(c10::get_default_dtype())) << 2 |
        int64_t(context.deterministicAlgorithms()) << 1 | int64_t(context.userEnabledMkldnn()));
  }

  // False if the value is of a kind that has no words.
  bool add_value(const c10::IValue& value) {
    if (value.isTensor() || value.isTensorList() || value.isOptionalTensorList()) {
      add(value.isTensor() ? 'T' : 'L');
      bool known = true;
      for_each_tensor(value, [&](const at::Tensor& tensor) { known &= add_tensor(tensor); });
      add('.');
      return known;
    }
    if (value.isNone() || value.isGenerator()) {
      add('N');
    } else if (value.isInt()) {
      add('i');
      add(value.toInt());
    } else if (value.isBool()) {
      add(value.toBool() ? 't' : 'f');
    } else if (value.isDouble()) {
      add('d');
      add_bits(value.toDouble());
    } else if (value.isComplexDouble()) {
      add('c');
      add_bits(value.toComplexDouble().real());
      add_bits(value.toComplexDouble().imag());
    } else if (value.isString()) {
      const std::string& text = value.toStringRef();
      add('s');
      add(static_cast<int64_t>(text.size()));
      for (const char c : text) {
        add(c);
      }
    } else if (value.isDevice()) {
      add('D');
    } else if (value.isList()) {
      add('[');
      for (const c10::IValue& element : value.toListRef()) {
        if (!add_value(element)) {
          return false;
        }
      }
      add(']');
    } else {
      return false;
    }
    return true;
  }

  bool operator==(const Key& other) const {
    return words_ == other.words_;
  }

  struct Hash {
    size_t operator()(const Key& key) const {
      uint64_t hash = 0xcbf29ce484222325;
      for (const int64_t word : key.words_) {
        hash = (hash ^ static_cast<uint64_t>(word)) * 0x9e3779b97f4a7c15;
        hash ^= hash >> 29;
      }
      return hash;
    }
  };

 private:
  void add(int64_t word) {
    words_.push_back(word);
  }
  void add_bits(double value) {
    int64_t bits = 0;
    std::memcpy(&bits, &value, sizeof(bits));
    add(bits);
  }

  bool add_tensor(const at::Tensor& tensor) {
    if (!tensor.defined()) {
      add('U');
      return true;
    }
    const auto* impl = tensor.unsafeGetTensorImpl();
    add(static_cast<int64_t>(tensor.scalar_type()) << 8 | int64_t(tensor.is_conj()) << 3 |
        int64_t(tensor.is_neg()) << 2 | int64_t(impl->is_wrapped_number()) << 1 |
        int64_t(tensor.is_cpu()));
    add(tensor.dim());
    for (const int64_t size : tensor.sizes()) {
      add(size);
    }
    for (const int64_t stride : tensor.strides()) {
      add(stride);
    }
    add(tensor.storage_offset());
    if (tensor.is_cpu()) {
      const at::Tensor value = tensor.resolve_conj().resolve_neg();
      int64_t words[2] = {0, 0};
      std::memcpy(words, value.const_data_ptr(), std::min(sizeof(words), value.nbytes()));
      add(words[0]);
      add(words[1]);
    }
    return true;
  }

  std::vector<int64_t> words_;
};

// Dispatcher state of a rehearsal: as device code has it, unseen by profilers.
struct RehearsalScope {
  c10::impl::ForceDispatchKeyGuard keys{c10::DispatchKeySet(c10::DispatchKey::BackendSelect),
                                        c10::autograd_dispatch_keyset_with_ADInplaceOrView |
                                            c10::autocast_dispatch_keyset};
  c10::InferenceMode inference{true};
  at::DisableRecordFunctionGuard no_callbacks;
};

class Outcomes {
 public:
  // Whether the call is known, and its outcome (null: it cannot be launched).
  bool find(const Key& key, std::shared_ptr<const Outcome>& outcome) {
    std::lock_guard<std::mutex> guard(mutex_);
    const auto it = outcomes_.find(key);
    if (it == outcomes_.end()) {
      return false;
    }
    outcome = it->second;
    return true;
  }

  void insert(Key key, std::shared_ptr<const Outcome> outcome) {
    constexpr size_t kMost = 10'000;
    std::lock_guard<std::mutex> guard(mutex_);
    if (outcomes_.size() >= kMost) {
      outcomes_.clear();
    }
    outcomes_.emplace(std::move(key), std::move(outcome));
  }

 private:
  std::mutex mutex_;
  std::unordered_map<Key, std::shared_ptr<const Outcome>, Key::Hash> outcomes_;
};

Outcomes& outcomes() {
  static auto* instance = new Outcomes();
  return *instance;
}

// Zeros that take memory only where the kernel writes.
c10::Storage zeros(size_t nbytes) {
  // Aligned as the CPU allocator does, which kernels' vector instructions count on.
  size_t space = nbytes + c10::gAlignment;
  void* memory = nbytes == 0 ? nullptr : std::calloc(space, 1);
  if (nbytes > 0 && memory == nullptr) {
    throw std::bad_alloc();
  }
  void* data = memory;
  if (nbytes > 0) {
    std::align(c10::gAlignment, nbytes, data, space);
  }
  return c10::Storage(c10::make_intrusive<c10::StorageImpl>(
      c10::StorageImpl::use_byte_size_t(), nbytes,
      c10::DataPtr(data, memory, &std::free, c10::DeviceType::CPU),
      c10::GetAllocator(c10::DeviceType::CPU),
      /*resizable=*/true));
}

Geometry geometry_of(const at::Tensor& tensor) {
  return {c10::DimVector(tensor.sizes()), c10::DimVector(tensor.strides()), tensor.scalar_type()};
}

// Keeps the warnings of a rehearsal until it is known that the call is launched: the
// fallback gives its own.
class KeptWarnings final : public c10::WarningHandler {
 public:
  void process(const c10::Warning& warning) override {
    warnings_.push_back(warning);
  }

  bool empty() const {
    return warnings_.empty();
  }

  void give() const {
    for (const c10::Warning& warning : warnings_) {
      c10::warn(warning);
    }
  }

 private:
  std::vector<c10::Warning> warnings_;
};

// One run of the kernel on zeros.
class Rehearsal {
 public:
  explicit Rehearsal(at::ArrayRef<c10::IValue> arguments) {
    for (const c10::IValue& value : arguments) {
      if (value.isDevice() && value.toDevice().is_privateuseone()) {
        stack_.emplace_back(c10::Device(c10::DeviceType::CPU));
      } else if (value.isGenerator()) {
        stack_.emplace_back(at::detail::createCPUGenerator(/*seed_val=*/0));
      } else {
        stack_.push_back(
            map_tensors(value, [this](const at::Tensor& tensor) { return zeros_like(tensor); }));
      }
    }
  }

  // Arguments named `generator` that were not given must not draw from the CPU's.
  void give_generators(const c10::FunctionSchema& schema) {
    for (size_t i = 0; i < stack_.size(); ++i) {
      if (stack_[i].isNone() && schema.arguments()[i].name() == "generator") {
        stack_[i] = at::detail::createCPUGenerator(/*seed_val=*/0);
      }
    }
  }

  // False if the outcome is one that a launch cannot have.
  bool run(const c10::OperatorHandle& op, Outcome& outcome) {
    {
      RehearsalScope scope;
      op.redispatchBoxed(c10::DispatchKeySet(c10::DispatchKey::CPU), &stack_);
    }
    for (size_t i = 0; i < tensors_.size(); ++i) {
      const auto& [tensor, before] = tensors_[i];
      if (tensor.defined() &&
          (tensor.sizes() != before.sizes || tensor.strides() != before.strides)) {
        outcome.resized.push_back({i, geometry_of(tensor)});
      }
    }
    for (const c10::IValue& value : stack_) {
      const bool is_list = value.isTensorList();
      if (!is_list && !value.isTensor()) {
        return false;
      }
      const size_t first = outcome.results.size();
      bool known = true;
      for_each_tensor(value,
                      [&](const at::Tensor& tensor) { known &= add_result(tensor, outcome); });
      if (!known) {
        return false;
      }
      outcome.list_sizes.push_back(is_list ? int64_t(outcome.results.size() - first) : -1);
    }
    return true;
  }

 private:
  at::Tensor zeros_like(const at::Tensor& tensor) {
    at::Tensor result;
    if (tensor.is_privateuseone()) {
      const c10::Storage& storage = tensor.storage();
      auto [it, is_new] = storages_.try_emplace(storage.unsafeGetStorageImpl());
      if (is_new) {
        it->second = zeros(storage.nbytes());
      }
      result = alias_tensor(tensor, it->second);
    } else {
      result = tensor;
    }
    tensors_.emplace_back(result, tensor.defined() ? geometry_of(tensor) : Geometry{});
    return result;
  }

  bool add_result(const at::Tensor& tensor, Outcome& outcome) {
    Outcome::Result result;
    if (tensor.defined()) {
      for (size_t i = 0; i < tensors_.size() && result.argument < 0; ++i) {
        result.argument = tensors_[i].first.is_same(tensor) ? static_cast<int64_t>(i) : -1;
      }
      if (result.argument < 0) {
        if (tensor.layout() != at::kStrided || tensor.is_quantized() || tensor.is_conj() ||
            tensor.is_neg() || !tensor.is_cpu() || tensor.storage_offset() != 0 ||
            !storages_of_results_.insert(tensor.storage().unsafeGetStorageImpl()).second) {
          return false;
        }
        for (const auto& argument : tensors_) {
          if (argument.first.defined() && argument.first.storage().is_alias_of(tensor.storage())) {
            return false;
          }
        }
        result.created = geometry_of(tensor);
      }
    }
    outcome.results.push_back(std::move(result));
    return true;
  }

  torch::jit::Stack stack_;
  std::vector<std::pair<at::Tensor, Geometry>> tensors_;
  std::unordered_map<c10::StorageImpl*, c10::Storage> storages_;
  std::unordered_set<c10::StorageImpl*> storages_of_results_;
};

} // namespace

std::shared_ptr<const Outcome> rehearse(const c10::OperatorHandle& op,
                                        at::ArrayRef<c10::IValue> arguments) {
  Key key(op);
  for (const c10::IValue& value : arguments) {
    if (!key.add_value(value)) {
      return nullptr;
    }
  }
  std::shared_ptr<const Outcome> known;
  if (outcomes().find(key, known)) {
    return known;
  }
  auto outcome = std::make_shared<Outcome>();
  outcome->name = orInternName(c10::toString(op.operator_name()).c_str());
  bool can_launch = false;
  KeptWarnings warnings;
  try {
    c10::WarningUtils::WarningHandlerGuard keeps(&warnings);
    Rehearsal rehearsal(arguments);
    rehearsal.give_generators(op.schema());
    can_launch = rehearsal.run(op, *outcome);
  } catch (const std::bad_alloc&) {
    return nullptr;
  } catch (const std::exception&) {
    // Bad sizes, or zeros are bad data: the fallback will tell.
    can_launch = false;
  }
  if (!can_launch) {
    outcome.reset();
  }
  if (can_launch && !warnings.empty()) {
    warnings.give(); // and again by the next such call
    return outcome;
  }
  outcomes().insert(std::move(key), outcome);
  return outcome;
}

namespace {

struct KnownDtypes {
  std::mutex mutex;
  std::unordered_set<uint64_t> signatures;
};

KnownDtypes& known_dtypes() {
  static auto* instance = new KnownDtypes();
  return *instance;
}

// The thread's own memory of them, one signature a place.
constexpr size_t kPlaces = 1024;
thread_local constinit std::array<uint64_t, kPlaces> known_to_thread{};

uint64_t& place_of(uint64_t signature) {
  return known_to_thread[(signature * 0x9e3779b97f4a7c15) >> 54];
}

struct NoWarnings final : c10::WarningHandler {
  void process(const c10::Warning&) override {}
};

void rehearse_once(c10::function_ref<void()> kernel, bool with_ones) {
  static NoWarnings no_warnings;
  c10::WarningUtils::WarningHandlerGuard warnings(&no_warnings);
  RehearsalScope scope;
  AliasPool::Scope aliases;
  ZeroAliases zeros;
  rehearses_with_ones() = with_ones;
  kernel();
}

// What the kernel says against the tensors, or nothing. That it has no code for a
// dtype is raised.
std::string refusal_of(c10::function_ref<void()> kernel, bool with_ones) {
  try {
    rehearse_once(kernel, with_ones);
  } catch (const c10::NotImplementedError&) {
    throw;
  } catch (const c10::Error& e) {
    return e.what_without_backtrace();
  } catch (const std::exception& e) {
    return e.what();
  }
  return {};
}

} // namespace

bool dtypes_are_known(uint64_t signature) {
  return place_of(signature) == signature;
}

void check_dtypes(uint64_t signature, c10::function_ref<void()> kernel) {
  auto& known = known_dtypes();
  {
    std::lock_guard<std::mutex> guard(known.mutex);
    if (known.signatures.count(signature) > 0) {
      place_of(signature) = signature;
      return;
    }
  }
  // Zeros can be bad data, and so can ones. What else is refused in the same words for
  // both is refused for its dtypes or sizes.
  const std::string refusal = refusal_of(kernel, /*with_ones=*/false);
  if (!refusal.empty() && refusal == refusal_of(kernel, /*with_ones=*/true)) {
    rehearse_once(kernel, /*with_ones=*/false);
  }
  std::lock_guard<std::mutex> guard(known.mutex);
  known.signatures.insert(signature);
  place_of(signature) = signature;
}

const std::optional<at::Generator>&
generator_of_kernel(const std::optional<at::Generator>& captured) {
  if (C10_LIKELY(ZeroAliases::of_thread() == nullptr)) {
    return captured;
  }
  thread_local const std::optional<at::Generator> scratch =
      at::detail::createCPUGenerator(/*seed_val=*/0);
  return scratch;
}

} // namespace at::openreg
