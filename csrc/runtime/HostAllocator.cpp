#include "runtime/HostAllocator.h"

#include <chrono>

#include "runtime/Capture.h"
#include "runtime/Fork.h"
#include "runtime/StreamPoint.h"

namespace at::openreg {
namespace {

using c10::openreg::StreamPoint;
using Block = at::HostBlock<c10::Stream>;

// Measures a call for the statistics, in microseconds.
template <typename Function>
int64_t timed(Function function) {
  const auto start = std::chrono::steady_clock::now();
  function();
  return std::chrono::duration_cast<std::chrono::microseconds>(std::chrono::steady_clock::now() -
                                                               start)
      .count();
}

// The caching is PyTorch's; this is what it needs from the device. See
// Note [Stream points] for why no events are recorded.
class CachingImpl final : public at::CachingHostAllocatorImpl<c10::Stream, StreamPoint, Block> {
 public:
  std::pair<void*, void*> allocate(size_t size) override {
    c10::openreg::check_not_forked();
    return CachingHostAllocatorImpl::allocate(size);
  }

  void copy_data(void* dest, const void* src, size_t count) const override {
    std::memcpy(dest, src, count);
  }

 private:
  void allocate_host_memory(size_t size, void** ptr) override {
    c10::openreg::watch_for_fork();
    const c10::openreg::RelaxedCapture relaxed(current_stream_is_capturing_fast_path());
    const int64_t duration = timed([&] { OPENREG_CHECK(orHostAlloc(ptr, size, 0)); });
    std::lock_guard<std::mutex> guard(stats_.timing_mutex_);
    stats_.host_alloc_time.increase(duration);
  }

  void free_block(Block* block) override {
    const int64_t duration = timed([&] { OPENREG_CHECK(orFreeHost(block->ptr_)); });
    std::lock_guard<std::mutex> guard(stats_.timing_mutex_);
    stats_.host_free_time.increase(duration);
  }

  void record_stream(std::optional<std::vector<StreamPoint>>& points, c10::Stream stream) override {
    points->push_back(StreamPoint::now(c10::openreg::OpenRegStream(stream).handle()));
  }

  bool query_event(StreamPoint& point) override {
    c10::openreg::StreamProgress progress;
    if (c10::openreg::stream_progress(point.stream, progress)) {
      return progress.completed >= point.count;
    }
    // The stream has been destroyed, and what it had queued may still run. The
    // queue of points would stand still behind this one, so wait.
    for (DeviceIndex device = 0; device < c10::openreg::device_count(); ++device) {
      c10::openreg::device_synchronize(device);
    }
    return true;
  }

  bool stream_is_capturing(c10::Stream stream) const override {
    return c10::openreg::is_capturing(c10::openreg::OpenRegStream(stream).handle());
  }

  c10::Stream get_current_stream() const override {
    return c10::openreg::get_current_stream().unwrap();
  }
};

void delete_host_block(void* context);

using HostAllocator = at::CachingHostAllocatorInterface<CachingImpl, delete_host_block>;

// Never freed: pinned tensors may be freed after static destructors have run.
HostAllocator& allocator() {
  static auto& instance = *new HostAllocator();
  return instance;
}

void delete_host_block(void* context) {
  if (!c10::openreg::in_forked_child()) {
    allocator().free(context);
  }
}

REGISTER_HOST_ALLOCATOR(at::kPrivateUse1, get_host_allocator())

} // namespace

at::HostAllocator* get_host_allocator() {
  return &allocator();
}

bool record_event(void* ptr, void* context, c10::openreg::OpenRegStream stream) {
  return allocator().record_event(ptr, context, stream.unwrap());
}

bool is_pinned(const void* ptr) {
  orPointerAttributes attributes;
  if (orPointerGetAttributes(&attributes, ptr) != orSuccess) {
    (void)orGetLastError();
    return false;
  }
  return attributes.type == orMemoryTypeHost;
}

} // namespace at::openreg
