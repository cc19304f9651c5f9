#include "kernels/Sampling.h"

#include "ops/Operator.h"

namespace at::openreg {
namespace {

constexpr const char* kTop = "openreg::top_k_top_p";
constexpr const char* kSample = "openreg::sample";
constexpr const char* kRoute = "openreg::topk_softmax";

at::Tensor as_dense_last(const at::Tensor& tensor) {
  return tensor.size(-1) <= 1 || tensor.stride(-1) == 1 ? tensor : tensor.contiguous();
}

void check_matrix(const char* op, const char* name, const at::Tensor& tensor) {
  check_floating(op, name, tensor);
  check_dim(op, name, tensor, 2);
}

at::Tensor top_k_top_p(const at::Tensor& logits,
                       const std::optional<at::Tensor>& k,
                       const std::optional<at::Tensor>& p) {
  check_matrix(kTop, "logits", logits);
  SameDeviceAs(kTop, logits).check("k", k).check("p", p);
  if (k.has_value()) {
    check_dtype(kTop, "k", *k, {at::kLong, at::kInt});
    check_shape(kTop, "k", *k, {logits.size(0)});
  }
  if (p.has_value()) {
    check_dtype(kTop, "p", *p, {at::kFloat});
    check_shape(kTop, "p", *p, {logits.size(0)});
  }
  at::Tensor out = new_empty(logits, logits.sizes());
  run(logits, kTop, keep_top, out, as_dense_last(logits), k ? k->contiguous() : at::Tensor(),
      p ? p->contiguous() : at::Tensor());
  return out;
}

void draw(at::Tensor& tokens, const at::Tensor& logits, const at::Tensor& uniform) {
  sample_kernel({
      .tokens = tokens.data_ptr<int64_t>(),
      .logits = Rows(logits),
      .uniform = uniform.const_data_ptr<double>(),
      .dtype = logits.scalar_type(),
  });
}

at::Tensor sample(const at::Tensor& logits, const at::Tensor& uniform) {
  check_matrix(kSample, "logits", logits);
  TORCH_CHECK_VALUE(logits.size(1) > 0, kSample, ": expected logits of one token at least, got ",
                    logits.sizes());
  SameDeviceAs(kSample, logits).check("uniform", uniform);
  check_dtype(kSample, "uniform", uniform, {at::kDouble});
  check_shape(kSample, "uniform", uniform, {logits.size(0)});
  at::Tensor tokens = new_empty(logits, {logits.size(0)}, at::kLong);
  run(logits, kSample, draw, tokens, as_dense_last(logits), uniform.contiguous());
  return tokens;
}

std::tuple<at::Tensor, at::Tensor>
topk_softmax(const at::Tensor& gating, int64_t top_k, bool renormalize) {
  check_matrix(kRoute, "gating", gating);
  TORCH_CHECK_VALUE(top_k > 0 && top_k <= gating.size(1), kRoute, ": expected top_k from 1 to ",
                    gating.size(1), ", the experts, got ", top_k);
  at::Tensor weights = new_empty(gating, {gating.size(0), top_k}, at::kFloat);
  at::Tensor ids = new_empty(gating, {gating.size(0), top_k}, at::kInt);
  run(gating, kRoute, route, weights, ids, as_dense_last(gating), renormalize);
  return {weights, ids};
}

at::Tensor top_k_top_p_meta(const at::Tensor& logits,
                            const std::optional<at::Tensor>&,
                            const std::optional<at::Tensor>&) {
  return at::empty_symint(logits.sym_sizes(), logits.options());
}
at::Tensor sample_meta(const at::Tensor& logits, const at::Tensor&) {
  return at::empty_symint({logits.sym_size(0)}, logits.options().dtype(at::kLong));
}
std::tuple<at::Tensor, at::Tensor>
topk_softmax_meta(const at::Tensor& gating, int64_t top_k, bool) {
  const c10::SymDimVector sizes = {gating.sym_size(0), top_k};
  return {at::empty_symint(sizes, gating.options().dtype(at::kFloat)),
          at::empty_symint(sizes, gating.options().dtype(at::kInt))};
}

TORCH_LIBRARY_FRAGMENT(openreg, m) {
  define(m, "top_k_top_p(Tensor logits, Tensor? k=None, Tensor? p=None) -> Tensor", top_k_top_p,
         top_k_top_p_meta);
  define(m, "sample(Tensor logits, Tensor uniform) -> Tensor", sample, sample_meta);
  define(m,
         "topk_softmax(Tensor gating, int top_k, bool renormalize=False) -> (Tensor weights, "
         "Tensor ids)",
         topk_softmax, topk_softmax_meta);
}

} // namespace
} // namespace at::openreg
