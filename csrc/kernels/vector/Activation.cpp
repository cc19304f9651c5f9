#include "kernels/Activation.h"

#include "kernels/vector/Elements.h"

namespace at::openreg {
namespace {

struct Silu {
  Vec operator()(const Vec& x) const {
    return x / (Vec(1.0f) + x.neg().exp());
  }
};

struct Gelu {
  Vec operator()(const Vec& x) const {
    return Vec(0.5f) * x * (Vec(1.0f) + (x * Vec(0.70710678f)).erf());
  }
};

struct GeluTanh {
  Vec operator()(const Vec& x) const {
    const Vec inner = Vec(0.79788456f) * at::vec::fmadd(Vec(0.044715f) * x * x, x, x);
    return Vec(0.5f) * x * (Vec(1.0f) + inner.tanh());
  }
};

template <class T, class F>
void gate_rows(const GatedActivationArgs& args, const F& activation) {
  const int64_t width = args.out.width;
  // Few rows may be long: the unit of work is a piece of a row.
  constexpr int64_t kPiece = 2048;
  const int64_t pieces = (width + kPiece - 1) / kPiece;
  parallel_for(args.out.count * pieces, 4, [&](int64_t begin, int64_t end) {
    for (int64_t index = begin; index < end; ++index) {
      const int64_t row = index / pieces;
      const int64_t start = index % pieces * kPiece;
      const T* gate = args.x.row<T>(row) + start;
      const T* up = gate + width;
      T* out = args.out.row<T>(row) + start;
      for_each_vector(std::min(kPiece, width - start), [&](int64_t i, auto n) {
        write(out + i, activation(read(gate + i, n)) * read(up + i, n), n);
      });
    }
  });
}

void gated_activation(const GatedActivationArgs& args) {
  dispatch_floating(args.dtype, [&](auto element) {
    using T = decltype(element);
    switch (args.activation) {
      case Activation::Silu:
        return gate_rows<T>(args, Silu());
      case Activation::Gelu:
        return gate_rows<T>(args, Gelu());
      case Activation::GeluTanh:
        return gate_rows<T>(args, GeluTanh());
    }
  });
}

} // namespace

OPENREG_REGISTER_VECTOR_KERNEL(gated_activation_kernel, gated_activation)

} // namespace at::openreg
