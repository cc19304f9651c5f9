#include "aten/Random.h"

namespace at::openreg {

OpenRegGeneratorImpl::Draw draw_from(const std::optional<at::Generator>& generator,
                                     c10::DeviceIndex device) {
  const at::Generator& chosen =
      generator.has_value() && generator->defined() ? *generator : default_generator(device);
  TORCH_CHECK(chosen.device().is_privateuseone(),
              "Expected a 'openreg' device type for generator but found '", chosen.device().type(),
              "'");
  return chosen.get<OpenRegGeneratorImpl>()->take(c10::openreg::current_stream_handle(device));
}

} // namespace at::openreg
