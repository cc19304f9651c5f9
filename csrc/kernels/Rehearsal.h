#pragma once

// What an operator will return, from its arguments' sizes alone.
//
// Note [Rehearsal]
// An operator without a shape function of its own can still be launched if its
// results' sizes do not depend on data: its CPU kernel runs once on the calling
// thread with zeros in place of the arguments. What it returns has the sizes,
// strides and dtypes that it will return for the real ones, and bad sizes are
// refused at the call. Outcomes are remembered by the arguments' geometry, so
// that a loop rehearses once. A device of real hardware has shape functions here.
//
// Whether a CPU kernel has code for a dtype is also known to the kernel alone. So
// that a dtype is refused at the call, the first launch of a kernel with arguments
// of given forms (TensorArg::form) is rehearsed too, if they are small.

#include <ATen/core/Generator.h>
#include <ATen/core/boxing/KernelFunction.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/ivalue.h>
#include <c10/util/DimVector.h>
#include <c10/util/FunctionRef.h>

#include <memory>
#include <optional>
#include <vector>

#include "runtime/Exception.h"

namespace at::openreg {

struct Geometry {
  c10::DimVector sizes;
  c10::DimVector strides;
  at::ScalarType dtype;
};

// What a call returns and does to its arguments' geometry. Tensors are counted
// through all arguments, lists included.
struct Outcome {
  struct Result {
    // The tensor argument that is returned as such, or -1.
    int64_t argument = -1;
    // A new tensor; none if the result is undefined.
    std::optional<Geometry> created;
  };
  struct Resized {
    size_t argument;
    Geometry geometry;
  };
  // A return is one tensor (-1) or a list of so many.
  std::vector<int64_t> list_sizes;
  std::vector<Result> results;
  std::vector<Resized> resized;
  const char* name; // the operator's, for ever
};

// The outcome of a call, or null if it cannot be told: the kernel refuses the
// zeros, returns a view or a number, or an argument is of an unknown kind.
// `arguments` hold device tensors and CPU tensors of no dimension.
OPENREG_API std::shared_ptr<const Outcome> rehearse(const c10::OperatorHandle& op,
                                                    at::ArrayRef<c10::IValue> arguments);

// Whether a call of this signature (KernelCall::signature) has been rehearsed.
OPENREG_API bool dtypes_are_known(uint64_t signature);

// Runs `kernel` on zeros and raises what it raises, if that is not about the data.
OPENREG_API void check_dtypes(uint64_t signature, c10::function_ref<void()> kernel);

// The generator that a captured one is for the running kernel: itself, or one
// that nobody else draws from in a rehearsal.
OPENREG_API const std::optional<at::Generator>&
generator_of_kernel(const std::optional<at::Generator>& captured);

} // namespace at::openreg
