// Kernels that torch.compile has generated and loaded: the callable that its
// wrapper code calls with tensors and numbers.

#include "aten/GeneratedKernel.h"

#include <torch/csrc/autograd/python_variable.h>

#include <bit>
#include <string>

#include "bindings/Module.h"
#include "openreg.h"

namespace torch_openreg {
namespace {

class GeneratedKernel {
 public:
  GeneratedKernel(const std::string& name, uintptr_t address, std::vector<bool> written)
      : name_(orInternName(name.c_str())),
        kernel_(reinterpret_cast<at::openreg::GeneratedKernel>(address)),
        written_(std::move(written)) {}

  void operator()(const py::args& args) const {
    TORCH_CHECK_TYPE(args.size() == written_.size(), name_, ": expected ", written_.size(),
                     " arguments, but got ", args.size());
    std::vector<at::openreg::TensorArg> tensors(args.size());
    std::vector<uint64_t> numbers(args.size());
    c10::DeviceIndex device = -1;
    for (size_t i = 0; i < args.size(); ++i) {
      const py::handle arg = args[i];
      if (THPVariable_Check(arg.ptr())) {
        const at::Tensor& tensor = THPVariable_Unpack(arg.ptr());
        // A number in a tensor of the host is part of the call, as for ATen's operators.
        if (!tensor.is_cpu() || tensor.dim() > 0) {
          TORCH_CHECK(tensor.is_privateuseone() && (device < 0 || device == tensor.get_device()),
                      name_, ": expected all tensors on one openreg device, but argument ", i,
                      " is on ", tensor.device());
          device = tensor.get_device();
        }
        tensors[i] = at::openreg::TensorArg(tensor, written_[i]);
      } else if (PyFloat_Check(arg.ptr())) {
        numbers[i] = std::bit_cast<uint64_t>(arg.cast<double>());
      } else {
        numbers[i] = std::bit_cast<uint64_t>(arg.cast<int64_t>());
      }
    }
    TORCH_CHECK(device >= 0, name_, ": expected a tensor on openreg among the arguments");
    py::gil_scoped_release no_gil;
    at::openreg::launch_generated(device, name_, kernel_, std::move(tensors), std::move(numbers));
  }

 private:
  const char* name_;
  at::openreg::GeneratedKernel kernel_;
  std::vector<bool> written_;
};

} // namespace

void bind_generated_kernel(py::module_& module) {
  py::class_<GeneratedKernel>(module, "_GeneratedKernel")
      .def(py::init<const std::string&, uintptr_t, std::vector<bool>>(), py::arg("name"),
           py::arg("address"), py::arg("written"))
      .def("__call__", torch::wrap_pybind_function(&GeneratedKernel::operator()));
}

} // namespace torch_openreg
