// scaled_dot_product_attention: the choice of a kernel, and PyTorch's entry for
// a backend's own fused one (SDPBackend::overrideable), which runs ATen's CPU
// flash attention. What that kernel does not take (dropout, a mask that needs a
// gradient, ...) goes to ATen's composition of matmul and softmax.

#include <ATen/AccumulateType.h>
#include <ATen/OpMathType.h>
#include <ATen/native/DispatchStub.h>
#include <ATen/native/transformers/attention.h>
#include <ATen/native/transformers/sdp_utils_cpp.h>
#include <ATen/ops/_fused_sdp_choice_native.h>
#include <ATen/ops/_scaled_dot_product_flash_attention_for_cpu_backward_cpu_dispatch.h>
#include <ATen/ops/_scaled_dot_product_flash_attention_for_cpu_cpu_dispatch.h>
#include <torch/library.h>

#include "aten/Factories.h"
#include "aten/Launch.h"
#include "aten/Shapes.h"
#include "aten/Structured.h"
#include "kernels/Parallel.h"

namespace at::openreg {
namespace {

int64_t choose_kernel(const at::Tensor& query,
                      const at::Tensor& key,
                      const at::Tensor& value,
                      const std::optional<at::Tensor>& attn_mask,
                      double dropout_p,
                      bool is_causal,
                      std::optional<double> scale,
                      bool enable_gqa) {
  const int64_t choice = at::native::_fused_sdp_choice_cpp(query, key, value, attn_mask, dropout_p,
                                                           is_causal, scale, enable_gqa);
  return choice == static_cast<int64_t>(sdp::SDPBackend::flash_attention)
             ? static_cast<int64_t>(sdp::SDPBackend::overrideable)
             : choice;
}

// A tensor of size [batch, heads, length, width] with the heads behind the length
// in memory, as the kernel lays out its gradients.
at::Tensor
empty_heads_inner(const at::Tensor& query, int64_t length, int64_t heads, int64_t width) {
  return empty_on(query.device(), {query.size(0), length, heads, width}, query.scalar_type())
      .transpose(1, 2);
}

// ATen shares out heads among threads however small they are; to wake a thread
// takes longer than the heads of a decoding sequence.
std::tuple<at::Tensor, at::Tensor> flash_attention(const at::Tensor& query,
                                                   const at::Tensor& key,
                                                   const at::Tensor& value,
                                                   double dropout_p,
                                                   bool is_causal,
                                                   const std::optional<at::Tensor>& attn_mask,
                                                   std::optional<double> scale) {
  constexpr int64_t kSmall = 1 << 18; // products
  std::optional<OneThread> one_thread;
  if (query.numel() * key.size(2) <= kSmall) {
    one_thread.emplace();
  }
  return at::cpu::_scaled_dot_product_flash_attention_for_cpu(query, key, value, dropout_p,
                                                              is_causal, attn_mask, scale);
}

std::tuple<at::Tensor,
           at::Tensor,
           at::Tensor,
           at::Tensor,
           c10::SymInt,
           c10::SymInt,
           at::Tensor,
           at::Tensor,
           at::Tensor>
fused_attention(const at::Tensor& query,
                const at::Tensor& key,
                const at::Tensor& value,
                const std::optional<at::Tensor>& attn_bias,
                double dropout_p,
                bool is_causal,
                bool /*return_debug_mask*/,
                std::optional<double> scale) {
  SameDevice devices("wrapper_openreg__scaled_dot_product_fused_attention_overrideable");
  devices.check(query, "query");
  devices.check(key, "key");
  devices.check(value, "value");
  devices.check(attn_bias, "attn_bias");
  const auto heads = query.size(1);
  const auto length = query.size(2);
  at::Tensor output = allocate(like(query), query.get_device());
  at::Tensor logsumexp = empty_on(query.device(), {query.size(0), length, heads},
                                  at::toOpMathType(query.scalar_type()))
                             .transpose(1, 2);
  launch_functional(query.get_device(), "aten::_scaled_dot_product_fused_attention_overrideable",
                    {output, logsumexp}, &flash_attention, query, key, value, dropout_p, is_causal,
                    attn_bias, scale);
  return {output,      logsumexp,    at::Tensor(), at::Tensor(), length,
          key.size(2), at::Tensor(), at::Tensor(), at::Tensor()};
}

std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor>
fused_attention_backward(const at::Tensor& grad_out,
                         const at::Tensor& query,
                         const at::Tensor& key,
                         const at::Tensor& value,
                         const at::Tensor& attn_bias,
                         std::array<bool, 4> grad_input_mask,
                         const at::Tensor& out,
                         const at::Tensor& logsumexp,
                         const at::Tensor& /*cum_seq_q*/,
                         const at::Tensor& /*cum_seq_k*/,
                         c10::SymInt /*max_q*/,
                         c10::SymInt /*max_k*/,
                         double dropout_p,
                         bool is_causal,
                         const at::Tensor& /*philox_seed*/,
                         const at::Tensor& /*philox_offset*/,
                         std::optional<double> scale) {
  TORCH_CHECK(!grad_input_mask[3],
              "openreg: the fused attention kernel has no gradient for attn_bias; "
              "scaled_dot_product_attention chooses the math kernel for it");
  at::Tensor grad_query = empty_heads_inner(query, query.size(2), query.size(1), query.size(3));
  at::Tensor grad_key = empty_heads_inner(key, key.size(2), key.size(1), key.size(3));
  at::Tensor grad_value = empty_heads_inner(value, value.size(2), value.size(1), value.size(3));
  const std::optional<at::Tensor> mask =
      attn_bias.defined() ? std::optional<at::Tensor>(attn_bias) : std::nullopt;
  launch_functional(query.get_device(),
                    "aten::_scaled_dot_product_fused_attention_overrideable_backward",
                    {grad_query, grad_key, grad_value},
                    &at::cpu::_scaled_dot_product_flash_attention_for_cpu_backward, grad_out, query,
                    key, value, out, logsumexp, dropout_p, is_causal, mask, scale);
  return {grad_query, grad_key, grad_value, at::Tensor()};
}

TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
  m.impl("_fused_sdp_choice", TORCH_FN(choose_kernel));
  m.impl("_scaled_dot_product_fused_attention_overrideable", TORCH_FN(fused_attention));
  m.impl("_scaled_dot_product_fused_attention_overrideable_backward",
         TORCH_FN(fused_attention_backward));
}

} // namespace
} // namespace at::openreg

namespace at::native {
REGISTER_PRIVATEUSE1_DISPATCH(_fused_sdp_choice_stub, &at::openreg::choose_kernel)
} // namespace at::native
