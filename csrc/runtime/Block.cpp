#include "runtime/Block.h"

namespace c10::openreg {

Block* BlockArena::acquire() {
  if (free_ == nullptr) {
    Block* slab = new Block[kSlab];
    for (size_t i = 0; i < kSlab; ++i) {
      slab[i].next_binned = free_;
      free_ = &slab[i];
    }
  }
  Block* block = free_;
  free_ = block->next_binned;
  block->next_binned = nullptr;
  block->state = Block::State::Live;
  block->requested = 0;
  block->count = 0;
  block->uses_left = 0;
  block->previous = nullptr;
  block->next = nullptr;
  return block;
}

void BlockArena::release(Block* block) {
  block->next_binned = free_;
  free_ = block;
}

} // namespace c10::openreg
