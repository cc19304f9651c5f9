#include "kernels/Activation.h"

#include "ops/Operator.h"

namespace at::openreg {
namespace {

template <Activation kActivation>
struct Gated;

template <>
struct Gated<Activation::Silu> {
  static constexpr const char* kName = "openreg::silu_and_mul";
};
template <>
struct Gated<Activation::Gelu> {
  static constexpr const char* kName = "openreg::gelu_and_mul";
};
template <>
struct Gated<Activation::GeluTanh> {
  static constexpr const char* kName = "openreg::gelu_tanh_and_mul";
};

c10::DimVector halved(const char* op, const at::Tensor& x) {
  TORCH_CHECK(x.dim() > 0 && x.size(-1) % 2 == 0, op,
              ": expected x with an even last dimension, got ", x.sizes());
  c10::DimVector sizes(x.sizes());
  sizes.back() /= 2;
  return sizes;
}

template <Activation kActivation>
void gate(at::Tensor& out, const at::Tensor& x) {
  gated_activation_kernel({Rows(x), Rows(out), x.scalar_type(), kActivation});
}

template <Activation kActivation>
void gated_out(const at::Tensor& x, at::Tensor& out) {
  const char* op = Gated<kActivation>::kName;
  check_floating(op, "x", x);
  SameDeviceAs(op, x).check("out", out);
  check_dtype(op, "out", out, {x.scalar_type()});
  check_shape(op, "out", out, halved(op, x));
  check_rows(op, "out", out);
  run(x, op, gate<kActivation>, out, as_rows(x));
}

template <Activation kActivation>
at::Tensor gated(const at::Tensor& x) {
  at::Tensor out = new_empty(x, halved(Gated<kActivation>::kName, x));
  gated_out<kActivation>(x, out);
  return out;
}

at::Tensor gated_meta(const at::Tensor& x) {
  c10::SymDimVector sizes(x.sym_sizes());
  sizes.back() = sizes.back() / 2;
  return at::empty_symint(sizes, x.options());
}
void gated_out_meta(const at::Tensor&, at::Tensor&) {}

template <Activation kActivation>
void define_gated(torch::Library& m) {
  const std::string name = std::string(Gated<kActivation>::kName).substr(sizeof("openreg::") - 1);
  define(m, name + "(Tensor x) -> Tensor", gated<kActivation>, gated_meta);
  define(m, name + ".out(Tensor x, *, Tensor(a!) out) -> ()", gated_out<kActivation>,
         gated_out_meta);
}

TORCH_LIBRARY_FRAGMENT(openreg, m) {
  define_gated<Activation::Silu>(m);
  define_gated<Activation::Gelu>(m);
  define_gated<Activation::GeluTanh>(m);
}

} // namespace
} // namespace at::openreg
