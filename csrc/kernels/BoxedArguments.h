#pragma once

// The tensors among an operator's boxed arguments.

#include <ATen/core/List.h>
#include <ATen/core/Tensor.h>
#include <ATen/core/ivalue.h>

namespace at::openreg {

// `value` with each tensor replaced by function(tensor), in order; undefined
// tensors too. What holds no tensor is returned as it is.
template <class F>
c10::IValue map_tensors(const c10::IValue& value, const F& function) {
  if (value.isTensor()) {
    return at::Tensor(function(value.toTensor()));
  }
  if (value.isTensorList()) {
    c10::List<at::Tensor> list;
    for (const at::Tensor& tensor : value.toTensorList()) {
      list.push_back(function(tensor));
    }
    return list;
  }
  if (value.isOptionalTensorList()) {
    c10::List<std::optional<at::Tensor>> list;
    for (const std::optional<at::Tensor>& tensor : value.toOptionalTensorList()) {
      list.push_back(tensor.has_value() ? std::optional<at::Tensor>(function(*tensor))
                                        : std::nullopt);
    }
    return list;
  }
  return value;
}

template <class F>
void for_each_tensor(const c10::IValue& value, const F& function) {
  if (value.isTensor()) {
    function(value.toTensor());
  } else if (value.isTensorList()) {
    for (const at::Tensor& tensor : value.toTensorList()) {
      function(tensor);
    }
  } else if (value.isOptionalTensorList()) {
    for (const std::optional<at::Tensor>& tensor : value.toOptionalTensorList()) {
      if (tensor.has_value()) {
        function(*tensor);
      }
    }
  }
}

} // namespace at::openreg
