#include "aten/GeneratedKernel.h"

#include <bit>

#include "aten/Launch.h"

namespace at::openreg {
namespace {

struct GeneratedCall {
  static constexpr bool kRelocatable = true;

  void run() {
    for (size_t i = 0; i < tensors.size(); ++i) {
      if (tensors[i].defined()) {
        arguments[i] = std::bit_cast<uint64_t>(tensors[i].address());
      }
    }
    kernel(arguments.data());
  }

  GeneratedKernel kernel;
  std::vector<TensorArg> tensors;
  std::vector<uint64_t> arguments;
  int threads = intra_op_threads();
};

} // namespace

void launch_generated(c10::DeviceIndex device,
                      const char* name,
                      GeneratedKernel kernel,
                      std::vector<TensorArg> tensors,
                      std::vector<uint64_t> numbers) {
  submit<GeneratedCall>(device, name,
                        GeneratedCall{kernel, std::move(tensors), std::move(numbers)});
}

} // namespace at::openreg
