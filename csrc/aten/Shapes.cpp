#include "aten/Shapes.h"

#include <ATen/TensorIterator.h>
#include <ATen/WrapDimUtils.h>
#include <ATen/WrapDimUtilsMulti.h>
#include <ATen/native/ReduceOpsUtils.h>
#include <ATen/native/Resize.h>
#include <ATen/native/TypeProperties.h>
#include <c10/core/DefaultDtype.h>

namespace at::openreg {

at::Tensor allocate(const Spec& spec, c10::DeviceIndex index) {
  const c10::Device device(c10::DeviceType::PrivateUse1, index);
  return spec.strides.empty() ? empty_on(device, spec.sizes, spec.dtype)
                              : empty_strided_on(device, spec.sizes, spec.strides, spec.dtype);
}

void resize_for(const at::Tensor& out, const Spec& spec) {
  if (at::native::resize_output(out, spec.sizes) && !spec.strides.empty()) {
    out.as_strided_(spec.sizes, spec.strides);
  }
}

Spec like(const at::Tensor& tensor, std::optional<at::ScalarType> dtype) {
  Spec spec{c10::DimVector(tensor.sizes()), {}, dtype.value_or(tensor.scalar_type())};
  if (tensor.is_contiguous()) {
    return spec;
  }
  if (tensor.is_non_overlapping_and_dense()) {
    spec.strides = c10::DimVector(tensor.strides());
  } else {
    const auto strides = at::infer_dense_strides(tensor.sizes(), tensor.strides());
    spec.strides.assign(strides.begin(), strides.end());
  }
  return spec;
}

Spec contiguous(at::IntArrayRef sizes, at::ScalarType dtype) {
  return {c10::DimVector(sizes), {}, dtype};
}

Spec contiguous_like(const at::Tensor& tensor, std::optional<at::ScalarType> dtype) {
  return contiguous(tensor.sizes(), dtype.value_or(tensor.scalar_type()));
}

Spec elementwise(std::initializer_list<at::Tensor> inputs, std::optional<at::ScalarType> dtype) {
  if (inputs.size() == 1) {
    return like(*inputs.begin(), dtype);
  }
  const at::Tensor* first = inputs.begin();
  const bool same = std::all_of(inputs.begin(), inputs.end(), [&](const at::Tensor& t) {
    return t.sizes() == first->sizes() && t.strides() == first->strides();
  });
  const auto result_dtype = [&] {
    if (dtype.has_value()) {
      return *dtype;
    }
    at::native::ResultTypeState state = {};
    for (const auto& input : inputs) {
      state = at::native::update_result_type_state(input, state);
    }
    return at::native::result_type(state);
  };
  if (same) {
    return like(*first, result_dtype());
  }
  c10::DimVector sizes;
  for (const auto& input : inputs) {
    sizes = at::infer_size_dimvector(sizes, input.sizes());
  }
  const bool all_contiguous = std::all_of(inputs.begin(), inputs.end(),
                                          [](const at::Tensor& t) { return t.is_contiguous(); });
  if (all_contiguous) {
    return contiguous(sizes, result_dtype());
  }
  // TensorIterator gives the output the memory order of the inputs.
  at::TensorIteratorConfig order;
  order.check_all_same_dtype(false)
      .check_all_same_device(false)
      .set_check_mem_overlap(false)
      .declare_static_dtype_and_device(result_dtype(), at::kMeta)
      .add_owned_output(at::Tensor());
  for (const auto& input : inputs) {
    order.add_const_input(input);
  }
  const at::Tensor output = order.build().output();
  return {c10::DimVector(output.sizes()), c10::DimVector(output.strides()), result_dtype()};
}

Spec with_size(const at::Tensor& tensor, int64_t dim, int64_t size) {
  Spec spec = contiguous_like(tensor);
  if (!spec.sizes.empty()) {
    spec.sizes[at::maybe_wrap_dim(dim, tensor.dim())] = size;
  }
  return spec;
}

Spec reduced(const at::Tensor& tensor,
             at::OptionalIntArrayRef dims,
             bool keepdim,
             at::ScalarType dtype) {
  Spec spec{{}, {}, dtype};
  const auto mask = at::native::make_dim_mask(dims, tensor.dim(), true);
  for (int64_t d = 0; d < tensor.dim(); ++d) {
    if (!mask[d]) {
      spec.sizes.push_back(tensor.size(d));
    } else if (keepdim) {
      spec.sizes.push_back(1);
    }
  }
  return spec;
}

Spec loss(std::initializer_list<at::Tensor> inputs, int64_t reduction) {
  if (reduction == at::Reduction::None) {
    return elementwise(inputs);
  }
  Spec spec = elementwise(inputs);
  return {{}, {}, spec.dtype};
}

at::ScalarType to_floating(at::ScalarType dtype) {
  return c10::isIntegralType(dtype, /*includeBool=*/true)
             ? c10::typeMetaToScalarType(c10::get_default_dtype())
             : dtype;
}

at::ScalarType to_summed(at::ScalarType dtype) {
  return c10::isIntegralType(dtype, /*includeBool=*/true) ? at::kLong : dtype;
}

at::ScalarType to_real(at::ScalarType dtype) {
  return c10::toRealValueType(dtype);
}

Spec elementwise_where(const at::Tensor& condition,
                       const at::Tensor& self,
                       const at::Tensor& other) {
  TORCH_CHECK(condition.scalar_type() == at::kBool || condition.scalar_type() == at::kByte,
              "where expected condition to be a boolean tensor, but got a tensor with dtype ",
              condition.scalar_type());
  return elementwise({condition, self, other}, elementwise({self, other}).dtype);
}

Spec scalar(const at::Tensor& tensor) {
  return {{}, {}, tensor.scalar_type()};
}

std::optional<Spec> optional_output(bool wanted, Spec spec) {
  return wanted ? std::optional<Spec>(std::move(spec)) : std::nullopt;
}

at::Tensor allocate(const std::optional<Spec>& spec, c10::DeviceIndex device) {
  return spec.has_value() ? allocate(*spec, device) : at::Tensor();
}

Spec layer_norm_statistics(const at::Tensor& input,
                           at::IntArrayRef normalized_shape,
                           const std::optional<at::Tensor>& weight) {
  const auto leading = input.dim() - static_cast<int64_t>(normalized_shape.size());
  const bool mixed = at::isReducedFloatingType(input.scalar_type()) && weight.has_value() &&
                     weight->defined() && weight->scalar_type() == at::kFloat;
  Spec spec{{}, {}, mixed ? at::kFloat : input.scalar_type()};
  for (int64_t d = 0; d < input.dim(); ++d) {
    spec.sizes.push_back(d < leading ? input.size(d) : 1);
  }
  return spec;
}

Spec log_sigmoid_buffer(const at::Tensor& self) {
  return contiguous_like(self);
}

Spec multinomial_samples(const at::Tensor& self, int64_t num_samples) {
  return self.dim() == 2 ? contiguous({self.size(0), num_samples}, at::kLong)
                         : contiguous({num_samples}, at::kLong);
}

} // namespace at::openreg
