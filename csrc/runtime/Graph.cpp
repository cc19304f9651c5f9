#include "runtime/Graph.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/core/CachingHostAllocator.h>
#include <c10/core/DeviceGuard.h>

#include <algorithm>
#include <map>
#include <mutex>

#include "runtime/CachingAllocator.h"
#include "runtime/Capture.h"
#include "runtime/Watchdog.h"

namespace at::openreg {

namespace device = c10::openreg;
namespace CachingAllocator = c10::openreg::CachingAllocator;

namespace {

struct Captures {
  std::mutex mutex;
  std::map<uint64_t, OpenRegGraph*> graphs;
};

Captures& captures() {
  static auto* instance = new Captures();
  return *instance;
}

orStreamCaptureMode to_device_mode(at::GraphCaptureMode mode) {
  switch (mode) {
    case at::GraphCaptureMode::ThreadLocal:
      return orStreamCaptureModeThreadLocal;
    case at::GraphCaptureMode::Relaxed:
      return orStreamCaptureModeRelaxed;
    default:
      return orStreamCaptureModeGlobal;
  }
}

at::Device on_device(c10::DeviceIndex index) {
  return {at::kPrivateUse1, index};
}

// Gives one CPU generator another one's state, in stream order.
struct CopyRandomState {
  at::Generator from;
  at::Generator to;
};

const orClosureType copy_random_state_type = {
    sizeof(CopyRandomState),
    alignof(CopyRandomState),
    [](void* target, void* source) {
      auto* copy = static_cast<CopyRandomState*>(source);
      new (target) CopyRandomState(std::move(*copy));
      copy->~CopyRandomState();
    },
    [](void* closure, const orLaunchContext*) {
      auto* copy = static_cast<CopyRandomState*>(closure);
      auto* from = copy->from.get<at::CPUGeneratorImpl>();
      auto* to = copy->to.get<at::CPUGeneratorImpl>();
      to->set_engine(from->engine());
      to->set_next_float_normal_sample(from->next_float_normal_sample());
      to->set_next_double_normal_sample(from->next_double_normal_sample());
      return orSuccess;
    },
    [](void* closure) { static_cast<CopyRandomState*>(closure)->~CopyRandomState(); },
    nullptr};

} // namespace

OpenRegGraph::OpenRegGraph(const at::GraphImplArgs& args) : keep_graph_(args.keep_graph) {}

OpenRegGraph::~OpenRegGraph() {
  try {
    reset();
  } catch (const std::exception& e) {
    TORCH_WARN("~OpenRegGraph: ", e.what());
  }
}

void OpenRegGraph::capture_begin(c10::MempoolId_t pool, at::GraphCaptureMode mode) {
  TORCH_CHECK(capture_ == 0 && exec_ == nullptr && graph_ == nullptr,
              "This OpenRegGraph instance already owns a captured graph. To capture a new graph, "
              "create a new instance, or call reset() first.");
  const device::OpenRegStream stream = device::get_current_stream();
  TORCH_CHECK(stream != device::get_default_stream(stream.device_index()),
              "Graphs must be captured on a non-default stream. (However, after capture, it is ok "
              "to replay them on the default stream.)");
  reset();
  device_ = stream.device_index();
  capture_stream_ = stream;
  pool_ = pool == c10::MempoolId_t{0, 0} ? CachingAllocator::new_pool_id(/*is_users=*/false) : pool;
  host_pool_ = CachingAllocator::new_pool_id(/*is_users=*/false);

  orStream_t const handle = stream.handle();
  OPENREG_CHECK(orStreamBeginCapture(handle, to_device_mode(mode)));
  capture_ = device::capture_of(handle);
  {
    std::lock_guard<std::mutex> guard(captures().mutex);
    captures().graphs.emplace(capture_, this);
  }
  const uint64_t capture = capture_;
  CachingAllocator::begin_allocate_to_pool(
      device_, pool_, [capture](orStream_t s) { return device::capture_of(s) == capture; });
  at::getHostAllocator(at::kPrivateUse1)
      ->begin_allocate_to_pool(host_pool_, [capture](c10::Stream s) {
        return s.device_type() == at::kPrivateUse1 &&
               device::capture_of(device::OpenRegStream(s).handle()) == capture;
      });
  allocating_ = holds_pools_ = true;
}

void OpenRegGraph::end_allocation() {
  if (allocating_) {
    allocating_ = false;
    CachingAllocator::end_allocate_to_pool(device_, pool_);
    at::getHostAllocator(at::kPrivateUse1)->end_allocate_to_pool(host_pool_);
  }
  std::lock_guard<std::mutex> guard(captures().mutex);
  captures().graphs.erase(capture_);
}

void OpenRegGraph::capture_end() {
  TORCH_CHECK(capture_ != 0, "Called OpenRegGraph::capture_end without a preceding capture_begin.");
  TORCH_CHECK(device::get_current_stream(device_) == *capture_stream_,
              "Capture must end on the same stream it began on.");
  const orError_t error = orStreamEndCapture(capture_stream_->handle(), &graph_);
  end_allocation();
  capture_ = 0;
  OPENREG_CHECK(error);
  std::sort(stand_ins_.begin(), stand_ins_.end(), [](const StandIn& a, const StandIn& b) {
    return a.device.unsafeGetGeneratorImpl() < b.device.unsafeGetGeneratorImpl();
  });
  capture_ended_ = true;

  size_t nodes = 0;
  OPENREG_CHECK(orGraphGetNodes(graph_, nullptr, 0, &nodes));
  if (nodes == 0) {
    TORCH_WARN("The graph is empty. This usually means that the graph was attempted to be captured "
               "on wrong device or stream.");
  }
  if (!keep_graph_) {
    instantiate();
    if (!debug_) {
      destroy_graph();
    }
  }
}

void OpenRegGraph::instantiate() {
  TORCH_CHECK(capture_ended_, "capture_end() must have been called before calling instantiate");
  TORCH_CHECK(graph_ != nullptr, "instantiate: the graph is kept only with keep_graph=True");
  if (exec_ != nullptr) {
    OPENREG_CHECK(orGraphExecDestroy(std::exchange(exec_, nullptr)));
  }
  OPENREG_CHECK(orGraphInstantiate(&exec_, graph_));
}

void OpenRegGraph::launch_random_state(orStream_t stream,
                                       const at::Generator& from,
                                       const at::Generator& to) {
  union Slot {
    CopyRandomState copy;
    explicit Slot(CopyRandomState c) : copy(std::move(c)) {}
    ~Slot() {}
  } slot({from, to});
  const orError_t error =
      orLaunch(stream, "graph_random_state", &copy_random_state_type, &slot.copy);
  if (error != orSuccess && error < orErrorLaunchFailure) {
    slot.copy.~CopyRandomState();
  }
  OPENREG_CHECK(error);
}

void OpenRegGraph::replay() {
  const device::LaunchScope scope("Graph.replay");
  TORCH_CHECK(capture_ended_,
              "Called OpenRegGraph::replay without a preceding successful capture.");
  if (exec_ == nullptr) {
    instantiate();
  }
  const c10::DeviceGuard guard(on_device(device_));
  orStream_t const stream = device::current_stream_handle(device_);
  if (C10_LIKELY(stand_ins_.empty())) {
    OPENREG_CHECK(orGraphLaunch(exec_, stream));
    return;
  }
  // Held to the end: no other launch may draw in between.
  std::vector<OpenRegGeneratorImpl::Draw> draws;
  draws.reserve(stand_ins_.size());
  for (const StandIn& stand_in : stand_ins_) {
    draws.push_back(stand_in.device.get<OpenRegGeneratorImpl>()->take(stream));
    launch_random_state(stream, draws.back().generator, stand_in.cpu);
  }
  OPENREG_CHECK(orGraphLaunch(exec_, stream));
  for (size_t i = 0; i < draws.size(); ++i) {
    launch_random_state(stream, stand_ins_[i].cpu, draws[i].generator);
  }
}

void OpenRegGraph::destroy_graph() {
  if (graph_ != nullptr) {
    OPENREG_CHECK(orGraphDestroy(std::exchange(graph_, nullptr)));
  }
}

void OpenRegGraph::reset() {
  if (capture_ != 0) {
    // Given up; it may have failed already.
    orGraph_t graph = nullptr;
    const device::RelaxedCapture relaxed;
    if (orStreamEndCapture(capture_stream_->handle(), &graph) != orSuccess) {
      (void)orGetLastError();
    }
    graph_ = graph;
    end_allocation();
    capture_ = 0;
  }
  capture_ended_ = false;
  stand_ins_.clear();
  if (exec_ != nullptr) {
    OPENREG_CHECK(orGraphExecDestroy(std::exchange(exec_, nullptr)));
  }
  destroy_graph();
  if (holds_pools_) {
    holds_pools_ = false;
    CachingAllocator::release_pool(device_, pool_);
    at::getHostAllocator(at::kPrivateUse1)->release_pool(host_pool_);
  }
}

c10::MempoolId_t OpenRegGraph::pool() const {
  TORCH_CHECK(capture_ended_,
              "Called OpenRegGraph::pool() without a preceding successful capture.");
  return pool_;
}

void OpenRegGraph::enable_debug_mode() {
  debug_ = true;
}

void OpenRegGraph::debug_dump(const std::string& path) {
  if (!keep_graph_ && !debug_) {
    TORCH_WARN("Graph debug is not enabled, set with enable_debug_mode() before the capture");
    return;
  }
  OPENREG_CHECK(orGraphDebugDotPrint(raw_graph(), path.c_str()));
}

orGraph_t OpenRegGraph::raw_graph() const {
  TORCH_CHECK(capture_ended_ && graph_ != nullptr,
              "the graph is kept after a successful capture with keep_graph=True or "
              "enable_debug_mode() only");
  return graph_;
}

at::Generator OpenRegGraph::captured_generator(uint64_t capture, OpenRegGeneratorImpl* generator) {
  std::lock_guard<std::mutex> guard(captures().mutex);
  const auto found = captures().graphs.find(capture);
  TORCH_CHECK(found != captures().graphs.end(),
              "random numbers can be captured only into a torch.openreg.Graph or "
              "torch.accelerator.Graph");
  auto& stand_ins = found->second->stand_ins_;
  for (const StandIn& stand_in : stand_ins) {
    if (stand_in.device.unsafeGetGeneratorImpl() == generator) {
      return stand_in.cpu;
    }
  }
  stand_ins.push_back(
      {at::Generator(c10::intrusive_ptr<c10::GeneratorImpl>::reclaim_copy(generator)),
       at::make_generator<at::CPUGeneratorImpl>(c10::default_rng_seed_val)});
  return stand_ins.back().cpu;
}

} // namespace at::openreg

// torch.accelerator.Graph looks for the backend's upper-case name.
namespace at {
REGISTER_GRAPH_IMPL(OPENREG, openreg::OpenRegGraph)
} // namespace at
