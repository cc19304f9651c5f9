#include "kernels/PagedAttention.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <vector>

#include "kernels/vector/Elements.h"
#include "kernels/vector/Tiles.h"

// Attention is computed in tiles: some queries of one sequence and all heads that
// share a kv head, against kKeys keys at a time, with a running maximum and sum
// (online softmax). A tile of few queries is split over the keys into parts of a
// fixed size, so that a result depends neither on the batch nor on the threads.

namespace at::openreg {
namespace {

constexpr int64_t kKeys = 64;        // of one step
constexpr int64_t kPart = 512;       // keys of one part
constexpr int64_t kTileQueries = 96; // rows of a tile, about
constexpr int64_t kDirectRows = 4;   // up to here keys are used where they lie

constexpr float kNothing = -std::numeric_limits<float>::infinity();

int64_t padded(int64_t size) {
  return (size + kLanes - 1) / kLanes * kLanes;
}

struct Tile {
  int64_t sequence;
  int64_t kv_head;
  int64_t token; // the first, in the batch
  int64_t tokens;
  int64_t position; // of the first, in its sequence
  int64_t length;   // of the sequence
  KeyRange keys;    // that any of its queries sees
  int64_t parts;
  int64_t partial; // where its parts' results begin, in parts
};

struct Item {
  int64_t tile;
  int64_t part;
};

struct Plan {
  std::vector<Tile> tiles;
  std::vector<Item> items;
  int64_t partials = 0;
  int64_t max_rows = 0;
};

Plan make_plan(const PagedAttentionArgs& args) {
  Plan plan;
  const int64_t group = args.group();
  const int64_t tile_tokens = std::max<int64_t>(1, kTileQueries / group);
  for (int64_t sequence = 0; sequence < args.sequences; ++sequence) {
    const int64_t first = args.query_start[sequence];
    const int64_t count = args.query_start[sequence + 1] - first;
    const int64_t length = args.lengths[sequence];
    const int64_t tiles = (count + tile_tokens - 1) / tile_tokens;
    // The last tokens see the most keys: their tiles begin first.
    for (int64_t index = tiles - 1; index >= 0; --index) {
      Tile tile;
      tile.sequence = sequence;
      tile.token = first + index * tile_tokens;
      tile.tokens = std::min(tile_tokens, first + count - tile.token);
      tile.position = length - count + index * tile_tokens;
      tile.length = length;
      tile.keys = {visible_keys(args, tile.position, length).begin,
                   visible_keys(args, tile.position + tile.tokens - 1, length).end};
      const int64_t seen = tile.keys.end - tile.keys.begin;
      tile.parts = tiles == 1 ? std::max<int64_t>(1, (seen + kPart - 1) / kPart) : 1;
      plan.max_rows = std::max(plan.max_rows, tile.tokens * group);
      for (tile.kv_head = 0; tile.kv_head < args.kv_heads; ++tile.kv_head) {
        tile.partial = plan.partials;
        plan.partials += tile.parts > 1 ? tile.parts : 0;
        for (int64_t part = 0; part < tile.parts; ++part) {
          plan.items.push_back({static_cast<int64_t>(plan.tiles.size()), part});
        }
        plan.tiles.push_back(tile);
      }
    }
  }
  return plan;
}

// A thread's working memory; all rows of a matrix are padded to whole vectors.
struct Scratch {
  float* query;  // [rows, key head size]
  float* sums;   // [rows, value head size]
  float* scores; // [rows, kKeys]
  float* keys;   // [key head size, kKeys]
  float* values; // [kKeys, value head size]
  float* row;    // [kLanes, key head size]
  float* maxima; // [rows]
  float* totals; // [rows]
};

Scratch scratch_of_thread(int64_t rows, int64_t key_size, int64_t value_size) {
  thread_local std::vector<float> memory;
  rows = padded(rows);
  const std::array<int64_t, 8> sizes = {
      rows * key_size,    rows * value_size, rows * kKeys, key_size * kKeys,
      kKeys * value_size, kLanes * key_size, rows,         rows};
  constexpr size_t kAlignment = 64;
  int64_t total = kAlignment / sizeof(float);
  for (const int64_t size : sizes) {
    total += size;
  }
  if (static_cast<int64_t>(memory.size()) < total) {
    memory.resize(total);
  }
  auto address = reinterpret_cast<uintptr_t>(memory.data());
  auto* next = reinterpret_cast<float*>((address + kAlignment - 1) & ~(kAlignment - 1));
  std::array<float*, 8> parts;
  for (size_t i = 0; i < sizes.size(); ++i) {
    parts[i] = next;
    next += sizes[i];
  }
  return {parts[0], parts[1], parts[2], parts[3], parts[4], parts[5], parts[6], parts[7]};
}

// Where kKeys consecutive keys of a sequence lie in a cache of elements C.
template <class C>
struct KeyRows {
  const C* rows[kKeys];

  KeyRows(const PagedAttentionArgs& args,
          const PagedCache& cache,
          const Tile& tile,
          int64_t first,
          int64_t count) {
    const int32_t* blocks = args.block_table + tile.sequence * args.block_table_stride;
    const C* head = static_cast<const C*>(cache.data) + tile.kv_head * cache.head_stride;
    int64_t block = first / args.block_size;
    int64_t offset = first % args.block_size;
    const int64_t bytes = cache.head_size * static_cast<int64_t>(sizeof(C));
    for (int64_t i = 0; i < count; ++i) {
      rows[i] = head + blocks[block] * cache.block_stride + offset * cache.token_stride;
      // All at once: rows far from each other are not what the processor foresees.
      for (int64_t byte = 0; byte < bytes; byte += kCacheLine) {
        __builtin_prefetch(reinterpret_cast<const char*>(rows[i]) + byte, 0, kSecondLevel);
      }
      if (++offset == args.block_size) {
        offset = 0;
        ++block;
      }
    }
  }
};

template <class C>
class TileAttention {
 public:
  TileAttention(const PagedAttentionArgs& args, const Scratch& scratch)
      : args_(args), scratch_(scratch), key_size_(padded(args.key.head_size)),
        value_size_(padded(args.value.head_size)) {}

  // Unnormalised sums, maxima and totals of the part's keys, in the scratch.
  void run(const Tile& tile, int64_t part) {
    rows_ = tile.tokens * args_.group();
    load_query(tile);
    std::fill_n(scratch_.sums, rows_ * value_size_, 0.0f);
    std::fill_n(scratch_.maxima, rows_, kNothing);
    std::fill_n(scratch_.totals, rows_, 0.0f);
    KeyRange keys = tile.keys;
    if (tile.parts > 1) {
      keys.begin += part * kPart;
      keys.end = std::min(keys.end, keys.begin + kPart);
    }
    for (int64_t first = keys.begin; first < keys.end; first += kKeys) {
      const int64_t count = std::min(kKeys, keys.end - first);
      const KeyRows<C> key_rows(args_, args_.key, tile, first, count);
      const KeyRows<C> value_rows(args_, args_.value, tile, first, count);
      if (rows_ <= kDirectRows) {
        score_direct(key_rows, count);
        soften(tile, first, count);
        add_direct(value_rows, count);
      } else {
        score_gathered(key_rows, count);
        soften(tile, first, count);
        add_gathered(value_rows, count);
      }
    }
  }

 private:
  void load_query(const Tile& tile) {
    const Vec scale(args_.scale * args_.key.scale);
    const int64_t group = args_.group();
    dispatch_floating(args_.dtype, [&](auto element) {
      using T = decltype(element);
      for (int64_t row = 0; row < rows_; ++row) {
        const T* query = static_cast<const T*>(args_.query.data) +
                         (tile.token + row / group) * args_.query.token_stride +
                         (tile.kv_head * group + row % group) * args_.query.head_stride;
        float* target = scratch_.query + row * key_size_;
        for_each_vector(args_.key.head_size,
                        [&](int64_t i, auto n) { (read(query + i, n) * scale).store(target + i); });
      }
    });
  }

  template <int64_t kRows>
  void score_rows(const KeyRows<C>& keys, int64_t count) {
    for (int64_t key = 0; key < count; ++key) {
      Vec total[kRows];
      std::fill_n(total, kRows, Vec(0.0f));
      for_each_vector(args_.key.head_size, [&](int64_t i, auto n) {
        const Vec value = read(keys.rows[key] + i, n);
        for (int64_t row = 0; row < kRows; ++row) {
          total[row] =
              at::vec::fmadd(Vec::loadu(scratch_.query + row * key_size_ + i), value, total[row]);
        }
      });
      for (int64_t row = 0; row < kRows; ++row) {
        scratch_.scores[row * kKeys + key] = sum(total[row]);
      }
    }
  }

  void score_direct(const KeyRows<C>& keys, int64_t count) {
    switch (rows_) {
      case 1:
        return score_rows<1>(keys, count);
      case 2:
        return score_rows<2>(keys, count);
      case 3:
        return score_rows<3>(keys, count);
      default:
        return score_rows<4>(keys, count);
    }
  }

  void score_gathered(const KeyRows<C>& keys, int64_t count) {
    for (int64_t first = 0; first < count; first += kLanes) {
      for (int64_t key = 0; key < kLanes; ++key) {
        const C* source = keys.rows[std::min(first + key, count - 1)];
        float* target = scratch_.row + key * key_size_;
        for_each_vector(args_.key.head_size,
                        [&](int64_t i, auto n) { read(source + i, n).store(target + i); });
      }
      for (int64_t i = 0; i < key_size_; i += kLanes) {
        at::vec::transpose_mxn<float, kLanes, kLanes>(scratch_.row + i, key_size_,
                                                      scratch_.keys + i * kKeys + first, kKeys);
      }
    }
    multiply({.a = scratch_.query,
              .a_stride = key_size_,
              .b = scratch_.keys,
              .b_stride = kKeys,
              .c = scratch_.scores,
              .c_stride = kKeys,
              .rows = rows_,
              .columns = padded(count),
              .inner = args_.key.head_size,
              .accumulate = false});
  }

  // Turns scores into weights relative to the new maximum, and scales what has
  // been summed up to it.
  void soften(const Tile& tile, int64_t first, int64_t count) {
    const int64_t group = args_.group();
    const int64_t width = padded(count);
    for (int64_t row = 0; row < rows_; ++row) {
      float* scores = scratch_.scores + row * kKeys;
      const int64_t position = tile.position + row / group;
      const KeyRange seen = visible_keys(args_, position, tile.length);
      const int64_t begin = std::clamp<int64_t>(seen.begin - first, 0, count);
      const int64_t end = std::clamp<int64_t>(seen.end - first, begin, count);
      if (begin == end) {
        std::fill_n(scores, width, 0.0f);
        continue;
      }
      if (args_.soft_cap > 0) {
        for (int64_t i = 0; i < width; i += kLanes) {
          const Vec capped = (Vec::loadu(scores + i) / Vec(args_.soft_cap)).tanh();
          (capped * Vec(args_.soft_cap)).store(scores + i);
        }
      }
      if (args_.slopes != nullptr) {
        const float slope = args_.slopes[tile.kv_head * group + row % group];
        for (int64_t i = begin; i < end; ++i) {
          scores[i] += slope * static_cast<float>(first + i - position);
        }
      }
      std::fill_n(scores, begin, kNothing);
      std::fill(scores + end, scores + width, kNothing);
      soften_row(row, scores, width);
    }
  }

  void soften_row(int64_t row, float* scores, int64_t width) {
    Vec largest = Vec::loadu(scores);
    for (int64_t i = kLanes; i < width; i += kLanes) {
      largest = at::vec::maximum(largest, Vec::loadu(scores + i));
    }
    const float before = scratch_.maxima[row];
    const float maximum = std::max(before, max(largest));
    if (maximum == kNothing) {
      std::fill_n(scores, width, 0.0f);
      return;
    }
    Vec total(0.0f);
    for (int64_t i = 0; i < width; i += kLanes) {
      const Vec weight = (Vec::loadu(scores + i) - Vec(maximum)).exp_u20();
      weight.store(scores + i);
      total = total + weight;
    }
    float shrink = 1.0f;
    if (maximum != before) {
      shrink = std::exp(before - maximum);
      float* sums = scratch_.sums + row * value_size_;
      for (int64_t i = 0; i < value_size_; i += kLanes) {
        (Vec::loadu(sums + i) * Vec(shrink)).store(sums + i);
      }
    }
    scratch_.maxima[row] = maximum;
    scratch_.totals[row] = scratch_.totals[row] * shrink + sum(total);
  }

  template <int64_t kRows>
  void add_rows(const KeyRows<C>& values, int64_t count) {
    for_each_vector(args_.value.head_size, [&](int64_t i, auto n) {
      Vec total[kRows];
      for (int64_t row = 0; row < kRows; ++row) {
        total[row] = Vec::loadu(scratch_.sums + row * value_size_ + i);
      }
      for (int64_t key = 0; key < count; ++key) {
        const Vec value = read(values.rows[key] + i, n);
        for (int64_t row = 0; row < kRows; ++row) {
          total[row] = at::vec::fmadd(Vec(scratch_.scores[row * kKeys + key]), value, total[row]);
        }
      }
      for (int64_t row = 0; row < kRows; ++row) {
        total[row].store(scratch_.sums + row * value_size_ + i);
      }
    });
  }

  void add_direct(const KeyRows<C>& values, int64_t count) {
    switch (rows_) {
      case 1:
        return add_rows<1>(values, count);
      case 2:
        return add_rows<2>(values, count);
      case 3:
        return add_rows<3>(values, count);
      default:
        return add_rows<4>(values, count);
    }
  }

  void add_gathered(const KeyRows<C>& values, int64_t count) {
    for (int64_t key = 0; key < count; ++key) {
      float* target = scratch_.values + key * value_size_;
      for_each_vector(args_.value.head_size,
                      [&](int64_t i, auto n) { read(values.rows[key] + i, n).store(target + i); });
    }
    multiply({.a = scratch_.scores,
              .a_stride = kKeys,
              .b = scratch_.values,
              .b_stride = value_size_,
              .c = scratch_.sums,
              .c_stride = value_size_,
              .rows = rows_,
              .columns = value_size_,
              .inner = count,
              .accumulate = true});
  }

  const PagedAttentionArgs& args_;
  const Scratch& scratch_;
  int64_t key_size_;
  int64_t value_size_;
  int64_t rows_ = 0;
};

// out[row] = sums * factor
void store_row(const PagedAttentionArgs& args,
               const Tile& tile,
               int64_t row,
               const float* sums,
               float factor) {
  const int64_t group = args.group();
  dispatch_floating(args.dtype, [&](auto element) {
    using T = decltype(element);
    T* out = static_cast<T*>(args.out.data) + (tile.token + row / group) * args.out.token_stride +
             (tile.kv_head * group + row % group) * args.out.head_stride;
    for_each_vector(args.value.head_size, [&](int64_t i, auto n) {
      write(out + i, Vec::loadu(sums + i) * Vec(factor), n);
    });
  });
}

float reciprocal(float total) {
  return total > 0 ? 1.0f / total : total == 0 ? 0.0f : total;
}

// What the parts of tiles leave for the merge: for every row its sums, then its
// maximum and total.
class Partials {
 public:
  Partials(const Plan& plan, int64_t value_size)
      : value_size_(value_size), row_size_(value_size + 2), part_size_(row_size_ * plan.max_rows),
        memory_(new float[plan.partials * part_size_]) {}

  float* row(int64_t part, int64_t row) const {
    return memory_.get() + part * part_size_ + row * row_size_;
  }

  void keep(const Tile& tile, int64_t part, int64_t rows, const Scratch& scratch) const {
    for (int64_t i = 0; i < rows; ++i) {
      float* target = row(tile.partial + part, i);
      std::copy_n(scratch.sums + i * value_size_, value_size_, target);
      target[value_size_] = scratch.maxima[i];
      target[value_size_ + 1] = scratch.totals[i];
    }
  }

  void merge(const PagedAttentionArgs& args, const Tile& tile) const {
    for (int64_t i = 0; i < tile.tokens * args.group(); ++i) {
      float* sums = row(tile.partial, i);
      for (int64_t part = 1; part < tile.parts; ++part) {
        add(sums, row(tile.partial + part, i));
      }
      store_row(args, tile, i, sums, args.value.scale * reciprocal(sums[value_size_ + 1]));
    }
  }

 private:
  void add(float* a, const float* b) const {
    const float maximum = std::max(a[value_size_], b[value_size_]);
    if (maximum == kNothing) {
      return;
    }
    const float a_factor = std::exp(a[value_size_] - maximum);
    const float b_factor = std::exp(b[value_size_] - maximum);
    for (int64_t i = 0; i < value_size_; i += kLanes) {
      const Vec scaled = Vec::loadu(b + i) * Vec(b_factor);
      at::vec::fmadd(Vec::loadu(a + i), Vec(a_factor), scaled).store(a + i);
    }
    a[value_size_] = maximum;
    a[value_size_ + 1] = a[value_size_ + 1] * a_factor + b[value_size_ + 1] * b_factor;
  }

  int64_t value_size_;
  int64_t row_size_;
  int64_t part_size_;
  std::unique_ptr<float[]> memory_;
};

// op(i) for i in [0, count).
template <class F>
void for_each_item(int64_t count, const F& op) {
  parallel_for(count, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      op(i);
    }
  });
}

template <class C>
void attend(const PagedAttentionArgs& args) {
  const Plan plan = make_plan(args);
  const int64_t key_size = padded(args.key.head_size);
  const int64_t value_size = padded(args.value.head_size);
  const Partials partials(plan, value_size);
  for_each_item(plan.items.size(), [&](int64_t index) {
    const Item item = plan.items[index];
    const Tile& tile = plan.tiles[item.tile];
    const Scratch scratch = scratch_of_thread(plan.max_rows, key_size, value_size);
    TileAttention<C>(args, scratch).run(tile, item.part);
    const int64_t rows = tile.tokens * args.group();
    if (tile.parts > 1) {
      partials.keep(tile, item.part, rows, scratch);
      return;
    }
    for (int64_t row = 0; row < rows; ++row) {
      store_row(args, tile, row, scratch.sums + row * value_size,
                args.value.scale * reciprocal(scratch.totals[row]));
    }
  });
  if (plan.partials > 0) {
    for_each_item(plan.tiles.size(), [&](int64_t index) {
      if (plan.tiles[index].parts > 1) {
        partials.merge(args, plan.tiles[index]);
      }
    });
  }
}

void paged_attention(const PagedAttentionArgs& args) {
  switch (args.cache_dtype) {
    case c10::ScalarType::Float8_e4m3fn:
      return attend<c10::Float8_e4m3fn>(args);
    case c10::ScalarType::Float8_e5m2:
      return attend<c10::Float8_e5m2>(args);
    default:
      dispatch_floating(args.cache_dtype, [&](auto element) { attend<decltype(element)>(args); });
  }
}

} // namespace

OPENREG_REGISTER_VECTOR_KERNEL(paged_attention_kernel, paged_attention)

} // namespace at::openreg
