#include "runtime/BlockPool.h"

#include <c10/core/AllocatorConfig.h>
#include <c10/macros/Macros.h>

#include <algorithm>
#include <bit>

namespace c10::openreg {

using c10::CachingAllocator::AcceleratorAllocatorConfig;

// An allocation in execution order looks at so many blocks whose work has not
// completed before it gives up.
static constexpr int kMaxBinnedLookedAt = 16;
static constexpr int kMaxFreeLookedAt = 256;

void BlockPool::enter(const Block* block) {
  if (block->is_split()) {
    for (PoolStats* stats : {&stats_.all, &stats_.of(small_)}) {
      stats->inactive_split.increase(1);
      stats->inactive_split_bytes.increase(static_cast<int64_t>(block->size));
    }
  }
}

void BlockPool::leave(const Block* block) {
  if (block->is_split()) {
    for (PoolStats* stats : {&stats_.all, &stats_.of(small_)}) {
      stats->inactive_split.decrease(1);
      stats->inactive_split_bytes.decrease(static_cast<int64_t>(block->size));
    }
  }
}

Block* BlockPool::take(size_t size, uint64_t completed) {
  if (small_) {
    const size_t bin = size / kGranularity - 1;
    if (bins_[bin] != nullptr) {
      if (Block* block = take_binned(bin, completed)) {
        return block;
      }
    }
  }
  return take_best_fit(size, completed);
}

Block* BlockPool::take_binned(size_t bin, uint64_t completed) {
  Block** link = &bins_[bin];
  for (int i = 0; *link != nullptr && i < kMaxBinnedLookedAt; ++i) {
    Block* block = *link;
    if (block->count <= completed) {
      *link = block->next_binned;
      if (bins_[bin] == nullptr) {
        filled_[bin / 64] &= ~(uint64_t{1} << (bin % 64));
      }
      block->state = Block::State::Live;
      leave(block);
      return block;
    }
    link = &block->next_binned;
  }
  return nullptr;
}

// Whether a large block may serve a smaller request, as max_split_size_mb
// limits it. If a block may not, no larger one may.
static bool may_serve(size_t block_size, size_t size) {
  const size_t max_split = AcceleratorAllocatorConfig::max_split_size();
  if (size < max_split) {
    return block_size < max_split;
  }
  return block_size < size + AcceleratorAllocatorConfig::max_non_split_rounding_size();
}

Block* BlockPool::take_best_fit(size_t size, uint64_t completed) {
  ++clock_;
  auto position = free_.lower_bound(size);
  for (int i = 0; position != free_.end() && i < kMaxFreeLookedAt; ++i, ++position) {
    Block* block = *position;
    if (!small_ && !may_serve(block->size, size)) {
      return nullptr;
    }
    if (block->count <= completed) {
      remove(block);
      cut(block, size);
      return block;
    }
  }
  return nullptr;
}

void BlockPool::put(Block* block) {
  if (!small_) {
    merge_and_insert(block);
    return;
  }
  const size_t bin = block->size / kGranularity - 1;
  block->state = Block::State::Binned;
  block->next_binned = bins_[bin];
  bins_[bin] = block;
  filled_[bin / 64] |= uint64_t{1} << (bin % 64);
  enter(block);
}

void BlockPool::cut(Block* block, size_t size) {
  const size_t rest = block->size - size;
  const bool worth_it =
      small_ ? rest >= kGranularity
             : rest > kMaxSmall && size < AcceleratorAllocatorConfig::max_split_size();
  if (!worth_it) {
    return;
  }
  Block* remainder = arena_.acquire();
  remainder->address = block->address + size;
  remainder->size = rest;
  remainder->pool = this;
  remainder->count = block->count;
  remainder->previous = block;
  remainder->next = block->next;
  if (block->next != nullptr) {
    block->next->previous = remainder;
  }
  block->next = remainder;
  block->size = size;
  insert(remainder);
}

bool BlockPool::flush() {
  bool any = false;
  for (size_t word = 0; word < filled_.size(); ++word) {
    while (filled_[word] != 0) {
      const size_t bin = word * 64 + static_cast<size_t>(std::countr_zero(filled_[word]));
      filled_[word] &= filled_[word] - 1;
      Block* block = bins_[bin];
      bins_[bin] = nullptr;
      while (block != nullptr) {
        Block* next = block->next_binned;
        leave(block);
        merge_and_insert(block);
        block = next;
      }
      any = true;
    }
  }
  return any;
}

void BlockPool::merge_and_insert(Block* block) {
  // The block with the lower address stays, so that a segment's first block is
  // always the same object. The merged memory is free of queued work when both
  // parts are.
  const auto absorb_next = [this](Block* into) {
    Block* gone = into->next;
    into->size += gone->size;
    into->count = std::max(into->count, gone->count);
    into->next = gone->next;
    if (gone->next != nullptr) {
      gone->next->previous = into;
    }
    arena_.release(gone);
  };
  if (block->next != nullptr && block->next->state == Block::State::Free) {
    remove(block->next);
    absorb_next(block);
  }
  if (block->previous != nullptr && block->previous->state == Block::State::Free) {
    Block* previous = block->previous;
    remove(previous);
    absorb_next(previous);
    block = previous;
  }
  insert(block);
}

void BlockPool::insert(Block* block) {
  block->state = Block::State::Free;
  block->free_since = clock_;
  if (C10_LIKELY(!block->node.empty())) {
    block->node.value() = block;
    block->position = free_.insert(std::move(block->node)).position;
  } else {
    block->position = free_.insert(block).first;
  }
  enter(block);
}

void BlockPool::remove(Block* block) {
  block->node = free_.extract(block->position);
  block->state = Block::State::Live;
  leave(block);
}

} // namespace c10::openreg
