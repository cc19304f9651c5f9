#include "aten/LayerShapes.h"

#include <ATen/native/RangeUtils.h>

#include <cmath>
#include <limits>

namespace at::openreg {

bool one_dtype(std::initializer_list<std::optional<at::Tensor>> tensors) {
  std::optional<at::ScalarType> dtype;
  for (const auto& tensor : tensors) {
    if (!is_given(tensor)) {
      continue;
    }
    if (!tensor->is_privateuseone() || (dtype.has_value() && *dtype != tensor->scalar_type())) {
      return false;
    }
    dtype = tensor->scalar_type();
  }
  return true;
}

bool one_floating(std::initializer_list<std::optional<at::Tensor>> tensors) {
  return one_dtype(tensors) && at::isFloatingType((*tensors.begin())->scalar_type());
}

bool has_dim(const at::Tensor& tensor, int64_t dim) {
  return dim >= -tensor.dim() && dim < tensor.dim();
}

bool expands_to(const at::Tensor& tensor, at::IntArrayRef sizes) {
  return at::is_expandable_to(tensor.sizes(), sizes);
}

bool broadcast(const at::Tensor& a, const at::Tensor& b) {
  return at::are_expandable(a.sizes(), b.sizes());
}

bool is_index(const at::Tensor& tensor) {
  return tensor.scalar_type() == at::kLong || tensor.scalar_type() == at::kInt;
}

bool is_given(const std::optional<at::Tensor>& tensor) {
  return tensor.has_value() && tensor->defined();
}

bool has_size(const std::optional<at::Tensor>& tensor, int64_t size) {
  return !is_given(tensor) || (tensor->dim() == 1 && tensor->numel() == size);
}

namespace {

// The largest number of a floating point dtype, or a smaller one.
double largest(at::ScalarType dtype) {
  return dtype == at::kHalf       ? static_cast<float>(std::numeric_limits<at::Half>::max())
         : dtype == at::kBFloat16 ? static_cast<float>(std::numeric_limits<at::BFloat16>::max())
                                  : std::numeric_limits<float>::max();
}

struct Range {
  int64_t first = 0;
  int64_t last = -1;
};

template <class T>
constexpr Range range_of() {
  if constexpr (std::is_same_v<T, uint64_t>) {
    return {0, std::numeric_limits<int64_t>::max()};
  } else if constexpr (std::numeric_limits<T>::is_integer) {
    return {static_cast<int64_t>(std::numeric_limits<T>::min()),
            static_cast<int64_t>(std::numeric_limits<T>::max())};
  } else {
    constexpr int64_t kMost = int64_t{1} << std::numeric_limits<T>::digits;
    return {-kMost, kMost};
  }
}

// The integers that a dtype has all of; none for complex and other dtypes.
Range integers_of(at::ScalarType dtype) {
  switch (dtype) {
    case at::kBool:
      return range_of<bool>();
    case at::kByte:
      return range_of<uint8_t>();
    case at::kChar:
      return range_of<int8_t>();
    case at::kShort:
      return range_of<int16_t>();
    case at::kInt:
      return range_of<int32_t>();
    case at::kLong:
      return range_of<int64_t>();
    case at::kUInt16:
      return range_of<uint16_t>();
    case at::kUInt32:
      return range_of<uint32_t>();
    case at::kUInt64:
      return range_of<uint64_t>();
    case at::kHalf:
      return range_of<at::Half>();
    case at::kBFloat16:
      return range_of<at::BFloat16>();
    case at::kFloat:
      return range_of<float>();
    case at::kDouble:
      return range_of<double>();
    default:
      return {};
  }
}

} // namespace

bool is_representable(const at::Scalar& value, at::ScalarType dtype) {
  if (value.isComplex() && !at::isComplexType(dtype)) {
    return false;
  }
  if (at::isFloatingType(dtype) || at::isComplexType(dtype)) {
    // Only a finite value can overflow.
    return value.isComplex() || !std::isfinite(value.toDouble()) ||
           std::abs(value.toDouble()) <= largest(dtype);
  }
  const auto range = integers_of(dtype);
  return value.isIntegral(/*includeBool=*/true) &&
         (dtype == at::kBool || (value.toLong() >= range.first && value.toLong() <= range.last));
}

bool fills(const at::Tensor& value, at::ScalarType dtype) {
  if (value.is_cpu() && value.dim() == 0) {
    return is_representable(value.item(), dtype);
  }
  return value.dim() == 0 && value.scalar_type() == dtype;
}

bool uniform_fits(at::ScalarType dtype, double from, double to) {
  const double limit = largest(c10::toRealValueType(dtype));
  return (at::isFloatingType(dtype) || at::isComplexType(dtype)) && from <= to && from >= -limit &&
         to <= limit && to - from <= limit;
}

bool random_fits(at::ScalarType dtype, int64_t from, std::optional<int64_t> to) {
  const auto range = integers_of(dtype);
  return to.has_value() && from < *to && from >= range.first && *to - 1 <= range.last;
}

bool has_degrees_of_freedom(const at::Tensor& self,
                            at::OptionalIntArrayRef dims,
                            const std::optional<at::Scalar>& correction) {
  int64_t count = 1;
  if (!dims.has_value() || dims->empty()) {
    count = self.numel();
  } else {
    for (const int64_t dim : *dims) {
      if (!has_dim(self, dim)) {
        return false;
      }
      count *= self.size(dim);
    }
  }
  return self.numel() > 0 &&
         static_cast<double>(count) > correction.value_or(at::Scalar(1)).toDouble();
}

Spec suggested_like(const at::Tensor& tensor) {
  return resized_image(tensor, {});
}

at::ScalarType statistics_dtype(const at::Tensor& input,
                                std::initializer_list<std::optional<at::Tensor>> parameters) {
  for (const auto& parameter : parameters) {
    if (is_given(parameter) && at::isReducedFloatingType(input.scalar_type()) &&
        parameter->scalar_type() == at::kFloat) {
      return at::kFloat;
    }
  }
  return input.scalar_type();
}

bool batch_norm_fits(const at::Tensor& input,
                     const std::optional<at::Tensor>& weight,
                     const std::optional<at::Tensor>& bias,
                     const std::optional<at::Tensor>& mean,
                     const std::optional<at::Tensor>& var) {
  if (!at::isFloatingType(input.scalar_type()) || input.dim() < 2 || input.numel() == 0) {
    return false;
  }
  const int64_t channels = input.size(1);
  const auto parameters = {weight, bias, mean, var};
  const auto dtype = statistics_dtype(input, parameters);
  return is_given(mean) == is_given(var) && one_dtype(parameters) &&
         std::all_of(parameters.begin(), parameters.end(), [&](const auto& parameter) {
           return has_size(parameter, channels) &&
                  (!is_given(parameter) || parameter->scalar_type() == dtype);
         });
}

void write_statistics(bool training,
                      const std::optional<at::Tensor>& mean,
                      const std::optional<at::Tensor>& var) {
  if (training && is_given(mean)) {
    mean->storage().mutable_data();
    var->storage().mutable_data();
  }
}

bool group_norm_fits(const at::Tensor& input,
                     const std::optional<at::Tensor>& weight,
                     const std::optional<at::Tensor>& bias,
                     int64_t n,
                     int64_t c,
                     int64_t hxw,
                     int64_t group) {
  if (!at::isFloatingType(input.scalar_type()) || input.numel() == 0 || group <= 0 ||
      !input.is_contiguous(input.suggest_memory_format())) {
    return false;
  }
  const auto dtype = statistics_dtype(input, {weight, bias});
  return c % group == 0 && input.numel() == n * c * hxw && has_size(weight, c) &&
         has_size(bias, c) && one_dtype({weight, bias}) &&
         (!is_given(weight) || weight->scalar_type() == dtype) &&
         (!is_given(bias) || bias->scalar_type() == dtype);
}

Spec resized_image(const at::Tensor& tensor, at::IntArrayRef sizes) {
  Spec spec = contiguous_like(tensor);
  std::copy(sizes.rbegin(), sizes.rend(), spec.sizes.rbegin());
  const auto format = tensor.suggest_memory_format();
  const at::IntArrayRef result(spec.sizes);
  if (format == at::MemoryFormat::ChannelsLast) {
    const auto strides = c10::get_channels_last_strides_2d(result);
    spec.strides.assign(strides.begin(), strides.end());
  } else if (format == at::MemoryFormat::ChannelsLast3d) {
    const auto strides = c10::get_channels_last_strides_3d(result);
    spec.strides.assign(strides.begin(), strides.end());
  }
  return spec;
}

Spec padded_image(const at::Tensor& tensor, at::IntArrayRef padding) {
  c10::DimVector sizes;
  const auto count = static_cast<int64_t>(padding.size() / 2);
  for (int64_t i = 0; i < count; ++i) {
    const int64_t d = tensor.dim() - count + i;
    const auto* pair = &padding[2 * (count - 1 - i)];
    sizes.push_back(tensor.size(d) + pair[0] + pair[1]);
  }
  return resized_image(tensor, sizes);
}

bool reflection_fits(const at::Tensor& tensor, at::IntArrayRef padding) {
  if (tensor.dim() < 3 || tensor.dim() > 4 || padding.size() != 4 || tensor.numel() == 0) {
    return false;
  }
  for (size_t i = 0; i < 4; ++i) {
    const int64_t size = tensor.size(i < 2 ? -1 : -2);
    if (padding[i] < 0 || padding[i] >= size) {
      return false;
    }
  }
  return true;
}

bool image_fits(const at::Tensor& tensor, at::IntArrayRef output_size) {
  return tensor.dim() >= 3 && tensor.dim() <= 4 && tensor.numel() > 0 && output_size.size() == 2 &&
         output_size[0] > 0 && output_size[1] > 0;
}

bool grid_fits(const at::Tensor& input, const at::Tensor& grid, int64_t dims) {
  return one_floating({input, grid}) && input.dim() == dims + 2 && grid.dim() == dims + 2 &&
         input.size(0) == grid.size(0) && grid.size(-1) == dims && input.numel() > 0;
}

Spec grid_sampled(const at::Tensor& input, const at::Tensor& grid) {
  Spec spec = contiguous_like(input);
  for (int64_t d = 2; d < input.dim(); ++d) {
    spec.sizes[d] = grid.size(d - 1);
  }
  return spec;
}

Spec reduced_dim(const at::Tensor& tensor, int64_t dim, bool keepdim, at::ScalarType dtype) {
  return tensor.dim() == 0 ? contiguous({}, dtype)
                           : reduced(tensor, at::IntArrayRef(dim), keepdim, dtype);
}

Spec with_last(const at::Tensor& tensor, int64_t size, at::ScalarType dtype) {
  Spec spec = contiguous_like(tensor, dtype);
  spec.sizes.back() = size;
  return spec;
}

bool addbmm_fits(const at::Tensor& self, const at::Tensor& batch1, const at::Tensor& batch2) {
  return batch1.dim() == 3 && batch2.dim() == 3 && batch1.size(0) == batch2.size(0) &&
         batch1.size(2) == batch2.size(1) && batch1.numel() > 0 && batch2.numel() > 0 &&
         expands_to(self, {batch1.size(1), batch2.size(2)});
}

bool multinomial_fits(const at::Tensor& self, int64_t num_samples, bool replacement) {
  constexpr int64_t kMaxCategories = 1 << 24;
  return self.dim() > 0 && self.dim() <= 2 && at::isFloatingType(self.scalar_type()) &&
         num_samples > 0 && (replacement || num_samples <= self.size(-1)) &&
         self.size(-1) <= kMaxCategories;
}

Spec filled(const at::Tensor& out, int64_t numel) {
  return out.numel() == numel ? contiguous_like(out) : contiguous({numel}, out.scalar_type());
}

int64_t arange_size(at::ScalarType dtype,
                    const at::Scalar& start,
                    const at::Scalar& end,
                    const at::Scalar& step) {
  // Only int64 has a computation of its own; the rest is done in double.
  return dtype == at::kLong ? at::native::compute_arange_size<int64_t>(start, end, step)
                            : at::native::compute_arange_size<float>(start, end, step);
}

bool search_fits(const at::Tensor& boundaries,
                 const at::Tensor& self,
                 const std::optional<std::string_view>& side,
                 const std::optional<at::Tensor>& sorter) {
  const bool rows_fit =
      boundaries.dim() == 1 ||
      (boundaries.dim() == self.dim() && boundaries.dim() > 0 &&
       boundaries.sizes().slice(0, boundaries.dim() - 1) == self.sizes().slice(0, self.dim() - 1));
  return one_dtype({boundaries, self}) && !at::isComplexType(self.scalar_type()) &&
         !side.has_value() && !is_given(sorter) && rows_fit && boundaries.numel() > 0;
}

bool nll_loss2d_fits(const at::Tensor& self,
                     const at::Tensor& target,
                     const std::optional<at::Tensor>& weight) {
  return one_floating({self, weight}) && self.dim() == 4 && target.dim() == 3 &&
         target.scalar_type() == at::kLong && target.is_privateuseone() && self.numel() > 0 &&
         self.size(0) == target.size(0) && self.size(2) == target.size(1) &&
         self.size(3) == target.size(2) && has_size(weight, self.size(1));
}

Spec nll_loss2d_output(const at::Tensor& self, int64_t reduction) {
  return reduction == at::Reduction::None
             ? contiguous({self.size(0), self.size(2), self.size(3)}, self.scalar_type())
             : scalar(self);
}

bool is_row_transform(const at::Tensor& self, at::IntArrayRef dim) {
  return dim.size() == 1 && self.dim() > 0 && (dim[0] == self.dim() - 1 || dim[0] == -1) &&
         self.is_contiguous() && self.numel() > 0;
}

} // namespace at::openreg
