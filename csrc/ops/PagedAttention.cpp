#include "kernels/PagedAttention.h"

#include "ops/Operator.h"

namespace at::openreg {
namespace {

constexpr const char* kOp = "openreg::paged_attention";

// What is data: known when the kernel runs.
void check_sequences(const PagedAttentionArgs& args,
                     int64_t tokens,
                     int64_t max_blocks,
                     int64_t blocks) {
  TORCH_CHECK_INDEX(args.query_start[0] >= 0, kOp,
                    ": expected query_start_loc to begin at 0 or behind, got ",
                    args.query_start[0]);
  for (int64_t sequence = 0; sequence < args.sequences; ++sequence) {
    const int64_t begin = args.query_start[sequence];
    const int64_t end = args.query_start[sequence + 1];
    const int64_t length = args.lengths[sequence];
    TORCH_CHECK_INDEX(begin <= end && end <= tokens, kOp, ": expected query_start_loc[",
                      sequence + 1, "] from ", begin, " to ", tokens, ", the tokens of query, got ",
                      end);
    if (begin == end) {
      continue;
    }
    TORCH_CHECK_INDEX(length >= end - begin && length <= max_blocks * args.block_size, kOp,
                      ": expected seq_lens[", sequence, "] from ", end - begin,
                      ", its new tokens, to ", max_blocks * args.block_size,
                      ", which block_table has room for, got ", length);
    const KeyRange keys{visible_keys(args, length - (end - begin), length).begin,
                        visible_keys(args, length - 1, length).end};
    const int32_t* table = args.block_table + sequence * args.block_table_stride;
    for (int64_t i = keys.begin / args.block_size; i * args.block_size < keys.end; ++i) {
      TORCH_CHECK_INDEX(table[i] >= 0 && table[i] < blocks, kOp, ": expected block_table[",
                        sequence, "][", i, "] below ", blocks, ", the blocks of the cache, got ",
                        table[i]);
    }
  }
}

TokenHeads token_heads(const at::Tensor& tensor) {
  return {tensor.data_ptr(), tensor.stride(0), tensor.stride(1)};
}

PagedCache paged_cache(const at::Tensor& cache, double scale) {
  return {cache.const_data_ptr(), cache.stride(0), cache.stride(1),
          cache.stride(2),        cache.size(3),   static_cast<float>(scale)};
}

void attend(at::Tensor& out,
            const at::Tensor& query,
            const at::Tensor& key_cache,
            const at::Tensor& value_cache,
            const at::Tensor& block_table,
            const at::Tensor& query_start_loc,
            const at::Tensor& seq_lens,
            const std::optional<at::Tensor>& alibi_slopes,
            double scale,
            bool causal,
            int64_t window,
            double soft_cap,
            double k_scale,
            double v_scale) {
  const PagedAttentionArgs args = {
      .query = token_heads(query),
      .out = token_heads(out),
      .key = paged_cache(key_cache, k_scale),
      .value = paged_cache(value_cache, v_scale),
      .block_table = block_table.const_data_ptr<int32_t>(),
      .block_table_stride = block_table.stride(0),
      .query_start = query_start_loc.const_data_ptr<int32_t>(),
      .lengths = seq_lens.const_data_ptr<int32_t>(),
      .sequences = query_start_loc.numel() - 1,
      .heads = query.size(1),
      .kv_heads = key_cache.size(2),
      .block_size = key_cache.size(1),
      .dtype = query.scalar_type(),
      .cache_dtype = key_cache.scalar_type(),
      .scale = static_cast<float>(scale),
      .causal = causal,
      .window = window,
      .soft_cap = static_cast<float>(soft_cap),
      .slopes = alibi_slopes ? alibi_slopes->const_data_ptr<float>() : nullptr,
  };
  check_sequences(args, query.size(0), block_table.size(1), key_cache.size(0));
  paged_attention_kernel(args);
}

void check_cache(const char* name, const at::Tensor& cache, const at::Tensor& query) {
  check_dim(kOp, name, cache, 4);
  check_dense_last(kOp, name, cache);
  check_dtype(kOp, name, cache, {query.scalar_type(), at::kFloat8_e4m3fn, at::kFloat8_e5m2});
  const int64_t kv_heads = cache.size(2);
  TORCH_CHECK(cache.size(1) > 0 && kv_heads > 0 && query.size(1) % kv_heads == 0, kOp,
              ": expected ", name,
              " of shape [blocks, block size, kv heads, head size], kv heads a divisor of query's ",
              query.size(1), ", got ", cache.sizes());
}

void check_integers(const char* name, const at::Tensor& tensor, int64_t dim) {
  check_dim(kOp, name, tensor, dim);
  check_dtype(kOp, name, tensor, {at::kInt});
}

void paged_attention_out(const at::Tensor& query,
                         const at::Tensor& key_cache,
                         const at::Tensor& value_cache,
                         const at::Tensor& block_table,
                         const at::Tensor& query_start_loc,
                         const at::Tensor& seq_lens,
                         double scale,
                         bool causal,
                         std::optional<int64_t> sliding_window,
                         std::optional<double> soft_cap,
                         const std::optional<at::Tensor>& alibi_slopes,
                         double k_scale,
                         double v_scale,
                         at::Tensor& out) {
  SameDeviceAs(kOp, query)
      .check("key_cache", key_cache)
      .check("value_cache", value_cache)
      .check("block_table", block_table)
      .check("query_start_loc", query_start_loc)
      .check("seq_lens", seq_lens)
      .check("alibi_slopes", alibi_slopes)
      .check("out", out);
  check_floating(kOp, "query", query);
  check_dim(kOp, "query", query, 3);
  check_dense_last(kOp, "query", query);
  check_cache("key_cache", key_cache, query);
  check_cache("value_cache", value_cache, query);
  TORCH_CHECK(key_cache.size(3) == query.size(2), kOp, ": expected key_cache of head size ",
              query.size(2), ", query's, got ", key_cache.sizes());
  TORCH_CHECK(key_cache.sizes().slice(0, 3) == value_cache.sizes().slice(0, 3) &&
                  key_cache.scalar_type() == value_cache.scalar_type(),
              kOp, ": expected value_cache as key_cache but for the head size, got ",
              value_cache.sizes(), " of ", value_cache.scalar_type(), " and ", key_cache.sizes(),
              " of ", key_cache.scalar_type());
  check_integers("block_table", block_table, 2);
  check_dense_last(kOp, "block_table", block_table);
  check_integers("query_start_loc", query_start_loc, 1);
  check_integers("seq_lens", seq_lens, 1);
  const int64_t sequences = query_start_loc.numel() - 1;
  TORCH_CHECK(sequences >= 0 && sequences <= seq_lens.numel() && sequences <= block_table.size(0),
              kOp, ": expected query_start_loc with one element more than sequences in seq_lens ",
              seq_lens.sizes(), " and block_table ", block_table.sizes(), ", got ",
              query_start_loc.sizes());
  check_dtype(kOp, "out", out, {query.scalar_type()});
  check_dim(kOp, "out", out, 3);
  check_dense_last(kOp, "out", out);
  TORCH_CHECK(out.size(0) >= query.size(0) && out.size(1) == query.size(1) &&
                  out.size(2) == value_cache.size(3),
              kOp, ": expected out of shape [", query.size(0), ", ", query.size(1), ", ",
              value_cache.size(3), "], got ", out.sizes());
  TORCH_CHECK_VALUE(sliding_window.value_or(1) > 0, kOp,
                    ": expected a positive sliding_window or None, got ",
                    sliding_window.value_or(1));
  TORCH_CHECK_VALUE(soft_cap.value_or(0) >= 0, kOp,
                    ": expected soft_cap of at least 0 or None, got ", soft_cap.value_or(0));
  if (alibi_slopes.has_value()) {
    check_shape(kOp, "alibi_slopes", *alibi_slopes, {query.size(1)});
    check_dtype(kOp, "alibi_slopes", *alibi_slopes, {at::kFloat});
    check_dense_last(kOp, "alibi_slopes", *alibi_slopes);
  }
  run(query, kOp, attend, out, query, key_cache, value_cache, block_table,
      query_start_loc.contiguous(), seq_lens.contiguous(), alibi_slopes, scale, causal,
      sliding_window.value_or(0), soft_cap.value_or(0), k_scale, v_scale);
}

at::Tensor paged_attention(const at::Tensor& query,
                           const at::Tensor& key_cache,
                           const at::Tensor& value_cache,
                           const at::Tensor& block_table,
                           const at::Tensor& query_start_loc,
                           const at::Tensor& seq_lens,
                           double scale,
                           bool causal,
                           std::optional<int64_t> sliding_window,
                           std::optional<double> soft_cap,
                           const std::optional<at::Tensor>& alibi_slopes,
                           double k_scale,
                           double v_scale) {
  check_dim(kOp, "query", query, 3);
  check_dim(kOp, "value_cache", value_cache, 4);
  at::Tensor out = new_empty(query, {query.size(0), query.size(1), value_cache.size(3)});
  paged_attention_out(query, key_cache, value_cache, block_table, query_start_loc, seq_lens, scale,
                      causal, sliding_window, soft_cap, alibi_slopes, k_scale, v_scale, out);
  return out;
}

at::Tensor paged_attention_meta(const at::Tensor& query,
                                const at::Tensor& key_cache,
                                const at::Tensor& value_cache,
                                const at::Tensor& block_table,
                                const at::Tensor& query_start_loc,
                                const at::Tensor& seq_lens,
                                double scale,
                                bool causal,
                                std::optional<int64_t> sliding_window,
                                std::optional<double> soft_cap,
                                const std::optional<at::Tensor>& alibi_slopes,
                                double k_scale,
                                double v_scale) {
  return at::empty_symint({query.sym_size(0), query.sym_size(1), value_cache.sym_size(3)},
                          query.options());
}

void paged_attention_out_meta(const at::Tensor&,
                              const at::Tensor&,
                              const at::Tensor&,
                              const at::Tensor&,
                              const at::Tensor&,
                              const at::Tensor&,
                              double,
                              bool,
                              std::optional<int64_t>,
                              std::optional<double>,
                              const std::optional<at::Tensor>&,
                              double,
                              double,
                              at::Tensor&) {}

TORCH_LIBRARY_FRAGMENT(openreg, m) {
  const std::string arguments =
      "(Tensor query, Tensor key_cache, Tensor value_cache, Tensor block_table, "
      "Tensor query_start_loc, Tensor seq_lens, float scale, *, bool causal=True, "
      "int? sliding_window=None, float? soft_cap=None, Tensor? alibi_slopes=None, "
      "float k_scale=1.0, float v_scale=1.0";
  define(m, "paged_attention" + arguments + ") -> Tensor", paged_attention, paged_attention_meta);
  define(m, "paged_attention.out" + arguments + ", Tensor(a!) out) -> ()", paged_attention_out,
         paged_attention_out_meta);
}

} // namespace
} // namespace at::openreg
