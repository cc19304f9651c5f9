// DeviceCache's side of the memory history, see Note [Memory history].

#include "runtime/DeviceCache.h"

namespace c10::openreg {

void DeviceCache::record(TraceEntry::Action action,
                         const Block* block,
                         size_t size,
                         Context context) {
  if (history_.enabled()) {
    const PrivatePool* owner = block->pool->owner();
    history_.add(action, device_, reinterpret_cast<size_t>(block->address), size,
                 block->pool->stream(), owner != nullptr ? owner->id : MempoolId_t{0, 0},
                 std::move(context));
  }
}

void DeviceCache::configure_history(const MemoryHistoryOptions& options, bool clear) {
  Lock lock(mutex_);
  history_.configure(options, clear);
}

std::vector<TraceEntry> DeviceCache::history() {
  Lock lock(mutex_);
  return history_.entries();
}

Context DeviceCache::allocation_context(const void* address) {
  Lock lock(mutex_);
  for (const Block* segment : segments_) {
    for (const Block* b = segment; b != nullptr && b->address <= address; b = b->next) {
      if (b->address == address && b->state == Block::State::Live) {
        return b->context;
      }
    }
  }
  return nullptr;
}

void DeviceCache::set_context(Block* block, Context context) {
  Lock lock(mutex_);
  block->context = std::move(context);
}

} // namespace c10::openreg
