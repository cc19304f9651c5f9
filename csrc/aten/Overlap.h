#pragma once

// Which out= calls need the CPU's own look at overlapping memory: kernels on the
// worker see each argument as a tensor of its own (Note [Aliases]).

#include <ATen/MemoryOverlap.h>
#include <ATen/TensorIterator.h>
#include <ATen/core/IListRef.h>
#include <ATen/core/Tensor.h>

namespace at::openreg {

inline bool shares_memory(const at::Tensor& out, const at::Tensor& input) {
  return input.defined() && input.has_storage() && out.storage().is_alias_of(input.storage());
}

inline bool shares_memory(const at::Tensor& out, const std::optional<at::Tensor>& input) {
  return input.has_value() && shares_memory(out, *input);
}

template <class List>
bool shares_memory(const at::Tensor& out, const List& inputs) {
  for (const auto& input : inputs) {
    if constexpr (std::is_convertible_v<decltype(input), const at::Tensor&>) {
      if (shares_memory(out, static_cast<const at::Tensor&>(input))) {
        return true;
      }
    } else if (input.has_value() && shares_memory(out, *input)) {
      return true;
    }
  }
  return false;
}

// Whether `out` has elements that share memory with one another or with an input.
template <class... T>
bool overlaps(const at::Tensor& out, const T&... inputs) {
  return (!out.is_contiguous() && at::has_internal_overlap(out) == at::MemOverlap::Yes) ||
         (shares_memory(out, inputs) || ...);
}

// For element-wise operators, an output that is an input itself is no overlap.
template <class... T>
bool overlaps_partly(const at::Tensor& out, const T&... inputs) {
  const auto check = [&](const auto& input) {
    if constexpr (std::is_same_v<std::decay_t<decltype(input)>, at::Tensor>) {
      return !out.is_same(input) && shares_memory(out, input);
    } else {
      return shares_memory(out, input);
    }
  };
  return (!out.is_contiguous() && at::has_internal_overlap(out) == at::MemOverlap::Yes) ||
         (check(inputs) || ...);
}

} // namespace at::openreg
