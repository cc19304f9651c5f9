#include "kernels/KVCache.h"

#include "ops/Operator.h"

namespace at::openreg {
namespace {

constexpr const char* kWrite = "openreg::reshape_and_cache";
constexpr const char* kSlots = "openreg::slot_mapping";

void check_cache(const char* name,
                 const at::Tensor& cache,
                 const at::Tensor& tokens,
                 const at::Tensor& slots) {
  check_dim(kWrite, name, cache, 4);
  check_dense_last(kWrite, name, cache);
  check_dtype(kWrite, name, cache, {tokens.scalar_type(), at::kFloat8_e4m3fn, at::kFloat8_e5m2});
  TORCH_CHECK(cache.size(2) == tokens.size(1) && cache.size(3) == tokens.size(2), kWrite,
              ": expected ", name, " of shape [blocks, block size, ", tokens.size(1), ", ",
              tokens.size(2), "], got ", cache.sizes());
  TORCH_CHECK(tokens.size(0) >= slots.numel(), kWrite, ": expected ", slots.numel(),
              " tokens, one for each of slot_mapping, got ", tokens.sizes(), " for ", name);
}

void write_caches(at::Tensor& key_cache,
                  at::Tensor& value_cache,
                  const at::Tensor& key,
                  const at::Tensor& value,
                  const at::Tensor& slots,
                  double k_scale,
                  double v_scale) {
  check_slots(slots, value_cache.size(0) * value_cache.size(1));
  write_cache(key_cache, key, slots, static_cast<float>(k_scale));
  write_cache(value_cache, value, slots, static_cast<float>(v_scale));
}

at::Tensor as_heads(const at::Tensor& tensor) {
  return tensor.size(-1) <= 1 || tensor.stride(-1) == 1 ? tensor : tensor.contiguous();
}

void reshape_and_cache(const at::Tensor& key,
                       const at::Tensor& value,
                       at::Tensor& key_cache,
                       at::Tensor& value_cache,
                       const at::Tensor& slot_mapping,
                       double k_scale,
                       double v_scale) {
  check_floating(kWrite, "key", key);
  check_dtype(kWrite, "value", value, {key.scalar_type()});
  check_dim(kWrite, "key", key, 3);
  check_dim(kWrite, "value", value, 3);
  SameDeviceAs(kWrite, key)
      .check("value", value)
      .check("key_cache", key_cache)
      .check("value_cache", value_cache)
      .check("slot_mapping", slot_mapping);
  check_dim(kWrite, "slot_mapping", slot_mapping, 1);
  check_dtype(kWrite, "slot_mapping", slot_mapping, {at::kLong});
  check_cache("key_cache", key_cache, key, slot_mapping);
  check_cache("value_cache", value_cache, value, slot_mapping);
  TORCH_CHECK_VALUE(k_scale > 0 && v_scale > 0, kWrite,
                    ": expected positive k_scale and v_scale, got ", k_scale, " and ", v_scale);
  run(key, kWrite, write_caches, key_cache, value_cache, as_heads(key), as_heads(value),
      slot_mapping.contiguous(), k_scale, v_scale);
}

void slot_mapping(const at::Tensor& query_start_loc,
                  const at::Tensor& positions,
                  const at::Tensor& block_table,
                  int64_t block_size,
                  at::Tensor& out) {
  SameDeviceAs(kSlots, out)
      .check("query_start_loc", query_start_loc)
      .check("positions", positions)
      .check("block_table", block_table);
  check_dim(kSlots, "query_start_loc", query_start_loc, 1);
  check_dim(kSlots, "positions", positions, 1);
  check_dim(kSlots, "block_table", block_table, 2);
  check_dim(kSlots, "out", out, 1);
  check_dtype(kSlots, "query_start_loc", query_start_loc, {at::kInt, at::kLong});
  check_dtype(kSlots, "positions", positions, {at::kInt, at::kLong});
  check_dtype(kSlots, "block_table", block_table, {at::kInt});
  check_dtype(kSlots, "out", out, {at::kInt, at::kLong});
  TORCH_CHECK_VALUE(block_size > 0, kSlots, ": expected a positive block_size, got ", block_size);
  TORCH_CHECK(query_start_loc.numel() >= 1 && query_start_loc.numel() - 1 <= block_table.size(0),
              kSlots, ": expected query_start_loc of 1 to ", block_table.size(0) + 1,
              " elements, one more than sequences in block_table, got ", query_start_loc.sizes());
  run(out, kSlots, compute_slots, out, query_start_loc, positions, block_table, block_size);
}

void reshape_and_cache_meta(const at::Tensor&,
                            const at::Tensor&,
                            at::Tensor&,
                            at::Tensor&,
                            const at::Tensor&,
                            double,
                            double) {}
void slot_mapping_meta(
    const at::Tensor&, const at::Tensor&, const at::Tensor&, int64_t, at::Tensor&) {}

TORCH_LIBRARY_FRAGMENT(openreg, m) {
  define(m,
         "reshape_and_cache(Tensor key, Tensor value, Tensor(a!) key_cache, "
         "Tensor(b!) value_cache, Tensor slot_mapping, *, float k_scale=1.0, "
         "float v_scale=1.0) -> ()",
         reshape_and_cache, reshape_and_cache_meta);
  define(m,
         "slot_mapping(Tensor query_start_loc, Tensor positions, Tensor block_table, "
         "int block_size, *, Tensor(a!) out) -> ()",
         slot_mapping, slot_mapping_meta);
}

} // namespace
} // namespace at::openreg
