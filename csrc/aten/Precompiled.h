#pragma once

// What nearly every file of csrc/aten and the generated operators include.

#include <ATen/TensorIterator.h>
#include <ATen/TensorMeta.h>
#include <ATen/core/Generator.h>
#include <ATen/core/IListRef.h>
#include <ATen/core/List.h>
#include <ATen/core/Tensor.h>
#include <c10/core/InferenceMode.h>
#include <c10/core/Scalar.h>
#include <torch/library.h>

#include <tuple>
#include <vector>
