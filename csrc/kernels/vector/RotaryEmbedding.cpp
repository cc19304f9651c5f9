#include "kernels/RotaryEmbedding.h"

#include "kernels/vector/Elements.h"

namespace at::openreg {
namespace {

template <class T, class C>
void rotate_halves(T* head, const C* cos, const C* sin, int64_t half) {
  for_each_vector(half, [&](int64_t i, auto n) {
    const Vec a = read(head + i, n);
    const Vec b = read(head + half + i, n);
    const Vec c = read(cos + i, n);
    const Vec s = read(sin + i, n);
    write(head + i, a * c - b * s, n);
    write(head + half + i, b * c + a * s, n);
  });
}

template <class T, class C>
void rotate_neighbours(T* head, const C* cos, const C* sin, int64_t half) {
  for (int64_t i = 0; i < half; ++i) {
    const float a = head[2 * i];
    const float b = head[2 * i + 1];
    const float c = cos[i];
    const float s = sin[i];
    head[2 * i] = a * c - b * s;
    head[2 * i + 1] = b * c + a * s;
  }
}

template <class T, class C>
void rotate_token(const RotatedHeads& tensor,
                  int64_t token,
                  const C* cos,
                  const RotaryEmbeddingArgs& args) {
  const int64_t half = args.rotary_dim / 2;
  T* head = static_cast<T*>(tensor.data) + token * tensor.token_stride;
  for (int64_t i = 0; i < tensor.heads; ++i, head += tensor.head_stride) {
    if (args.is_neox) {
      rotate_halves(head, cos, cos + half, half);
    } else {
      rotate_neighbours(head, cos, cos + half, half);
    }
  }
}

template <class T, class C>
void rotate(const RotaryEmbeddingArgs& args) {
  const int64_t work = (args.query.heads + args.key.heads) * args.rotary_dim;
  const int64_t grain = std::max<int64_t>(1, (1 << 14) / std::max<int64_t>(work, 1));
  parallel_for(args.tokens, grain, [&](int64_t begin, int64_t end) {
    for (int64_t token = begin; token < end; ++token) {
      const int64_t position = args.position_dtype == at::kLong
                                   ? static_cast<const int64_t*>(args.positions)[token]
                                   : static_cast<const int32_t*>(args.positions)[token];
      const C* cos = static_cast<const C*>(args.cos_sin) + position * args.cos_sin_stride;
      rotate_token<T>(args.query, token, cos, args);
      rotate_token<T>(args.key, token, cos, args);
    }
  });
}

void rotary_embedding(const RotaryEmbeddingArgs& args) {
  dispatch_floating(args.dtype, [&](auto element) {
    using T = decltype(element);
    if (args.cos_sin_dtype == at::kFloat) {
      rotate<T, float>(args);
    } else {
      rotate<T, T>(args);
    }
  });
}

} // namespace

OPENREG_REGISTER_VECTOR_KERNEL(rotary_embedding_kernel, rotary_embedding)

} // namespace at::openreg
