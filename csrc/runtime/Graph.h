#pragma once

// Graphs: work that is captured once and replayed with one launch. What
// torch.accelerator.Graph creates (through GraphImplRegistry) and torch.openreg.Graph
// binds. Names and rules are those of at::cuda::CUDAGraph.
//
// Note [Random numbers in graphs]
// A captured launch cannot draw from the device generator's CPU generator, which
// a new seed replaces. So each device generator has a stand-in in the graph, and
// a replay is three launches if the graph draws: the stand-in takes the state
// that the generator has at that point of the stream, the nodes draw in the
// order of capture, the generator takes the state back. Replays give the numbers
// that running the same code eagerly would give.

#include <ATen/core/GraphImplInterface.h>

#include <optional>
#include <string>
#include <vector>

#include "runtime/Generator.h"

namespace at::openreg {

// Not for concurrent use, replay() excepted.
class OPENREG_API OpenRegGraph final : public at::GraphImplInterface {
 public:
  explicit OpenRegGraph(const at::GraphImplArgs& args = {});
  // Ends an unfinished capture. Queued replays still run.
  ~OpenRegGraph() override;
  OpenRegGraph(const OpenRegGraph&) = delete;
  OpenRegGraph& operator=(const OpenRegGraph&) = delete;

  // On the current stream, which must not be a default stream. Memory comes
  // from `pool`, from a pool of its own if that is {0, 0}. The default mode is
  // Global.
  void capture_begin(c10::MempoolId_t pool = {0, 0},
                     at::GraphCaptureMode mode = at::GraphCaptureMode::Default) override;
  // Ends the capture also when it raises.
  void capture_end() override;
  void instantiate() override;
  // On the current stream of the graph's device.
  void replay() override;
  void reset() override;
  c10::MempoolId_t pool() const override;
  void enable_debug_mode() override;
  // Writes DOT; needs keep_graph or the debug mode, and warns without.
  void debug_dump(const std::string& path) override;

  // The device library's graph, kept with keep_graph or in debug mode.
  orGraph_t raw_graph() const;

  // The stand-in that launches of the capture with this id draw from.
  static at::Generator captured_generator(uint64_t capture, OpenRegGeneratorImpl* generator);

 private:
  struct StandIn {
    at::Generator device;
    at::Generator cpu;
  };

  void launch_random_state(orStream_t stream, const at::Generator& from, const at::Generator& to);
  void end_allocation();
  void destroy_graph();

  const bool keep_graph_;
  bool debug_ = false;
  bool capture_ended_ = false;
  uint64_t capture_ = 0; // its id, while it lasts
  std::optional<c10::openreg::OpenRegStream> capture_stream_;
  c10::DeviceIndex device_ = -1;
  c10::MempoolId_t pool_{0, 0};
  // Pinned memory is not shared between graphs.
  c10::MempoolId_t host_pool_{0, 0};
  bool allocating_ = false;
  bool holds_pools_ = false;
  orGraph_t graph_ = nullptr;
  orGraphExec_t exec_ = nullptr;
  // In the order of their addresses, in which a replay locks them.
  std::vector<StandIn> stand_ins_;
};

} // namespace at::openreg
