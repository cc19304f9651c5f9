// torch.profiler's view of the device: a child profiler of Kineto (PyTorch asks
// for one by REGISTER_PRIVATEUSE1_PROFILER). While a profile with the activity
// PrivateUse1 runs, it records what the device does (ProfilerTrace.h); when the
// profile has ended, it hands Kineto an activity for each kernel, copy and fill,
// on one lane a stream, each linked to the call that launched it and to the
// operator that made the call.

#include <libkineto.h>
#include <output_base.h>
#include <torch/csrc/profiler/standalone/privateuse1_profiler.h>
#include <unistd.h>

#include <algorithm>
#include <map>
#include <set>

#include "runtime/ProfilerTrace.h"
#include "runtime/Stream.h"

namespace c10::openreg {
namespace {

using libkineto::ActivityType;
using libkineto::GenericTraceActivity;

using Types = std::set<ActivityType>;

ActivityType run_type(orTraceKind kind) {
  return kind == orTraceMemcpy   ? ActivityType::GPU_MEMCPY
         : kind == orTraceMemset ? ActivityType::GPU_MEMSET
                                 : ActivityType::CONCURRENT_KERNEL;
}

// As torch.cuda's profiles call them.
std::string run_name(const TraceRun& run) {
  const std::string name = run.name;
  if (run.kind == orTraceMemcpy && name.rfind("memcpy", 0) == 0) {
    return "Memcpy " + name.substr(6);
  }
  return run.kind == orTraceMemset ? "Memset (Device)" : name;
}

// The device library's function. (Which one of several that trace alike is not
// recorded; PyTorch calls these.)
std::string call_name(const TraceCall& call) {
  switch (call.kind) {
    case orTraceKernel:
      return "orLaunch";
    case orTraceMemcpy:
      return "orMemcpyAsync";
    case orTraceMemset:
      return "orMemsetAsync";
    case orTraceHostFunc:
      return "orLaunchHostFunc";
    case orTraceGraph:
      return "orGraphLaunch";
    case orTraceEventRecord:
      return "orEventRecord";
    case orTraceEventWait:
      return "orStreamWaitEvent";
    default: {
      std::string name = call.name; // "streamSynchronize"
      if (!name.empty()) {
        name[0] = static_cast<char>(std::toupper(static_cast<unsigned char>(name[0])));
      }
      return "or" + name;
    }
  }
}

libkineto::DeviceInfo device_info(int device) {
  const std::string number = std::to_string(device);
  return {device, libkineto::kExceedMaxPid + device, "openreg:" + number, "device " + number};
}

// A lane of the picture.
using Lane = std::pair<int, uint64_t>; // device, stream

class Session final : public libkineto::IActivityProfilerSession {
 public:
  explicit Session(const Types& types) : types_(types) {}

  void start() override {
    unsigned kinds = orTraceHostFunc | orTraceGraph;
    kinds |= types_.count(ActivityType::CONCURRENT_KERNEL) ? unsigned(orTraceKernel) : 0;
    kinds |= types_.count(ActivityType::GPU_MEMCPY) ? unsigned(orTraceMemcpy) : 0;
    kinds |= types_.count(ActivityType::GPU_MEMSET) ? unsigned(orTraceMemset) : 0;
    if (types_.count(ActivityType::PRIVATEUSE1_RUNTIME)) {
      kinds |= orTraceSync | orTraceEventRecord | orTraceEventWait;
    }
    clock_.start();
    try {
      trace_.start(kinds);
      status_ = libkineto::TraceStatus::RECORDING;
    } catch (const std::exception& error) {
      errors_.emplace_back(error.what());
      status_ = libkineto::TraceStatus::ERROR;
    }
  }

  void stop() override {
    trace_.stop();
    clock_.stop();
    status_ = libkineto::TraceStatus::PROCESSING;
  }

  std::vector<std::string> errors() override {
    return errors_;
  }

  void processTrace(libkineto::ActivityLogger& logger) override {
    processTrace(logger, [](int32_t) { return nullptr; }, 0, 0);
  }

  void processTrace(libkineto::ActivityLogger& logger,
                    libkineto::getLinkedActivityCallback linked,
                    int64_t start,
                    int64_t end) override;

  // Kineto has room for one device here; processTrace names the others. With none
  // it would name sixteen GPUs instead.
  std::unique_ptr<libkineto::DeviceInfo> getDeviceInfo() override {
    return std::make_unique<libkineto::DeviceInfo>(
        device_info(lanes_.empty() ? 0 : lanes_.begin()->first));
  }

  std::vector<libkineto::ResourceInfo> getResourceInfos() override;

  std::unique_ptr<libkineto::CpuTraceBuffer> getTraceBuffer() override {
    return std::move(buffer_);
  }

  std::string getDeviceProperties() override;

  void pushCorrelationId(uint64_t id) override {
    trace_.push_operator(id);
  }
  void popCorrelationId() override {
    trace_.pop_operator();
  }
  void pushUserCorrelationId(uint64_t id) override {
    trace_.push_range(id);
  }
  void popUserCorrelationId() override {
    trace_.pop_range();
  }

 private:
  struct Span {
    int64_t begin;
    int64_t end;
  };

  bool wanted(ActivityType type) const {
    return types_.count(type) != 0;
  }
  GenericTraceActivity& add(ActivityType type, const std::string& name, Span span);
  void add_call(const TraceCall& call, Span span, int32_t id, bool flows);
  void add_run(const TraceRun& run, int32_t id, const TraceCall* call);
  void add_ranges();

  const Types types_;
  ProfilerTrace trace_;
  TraceClock clock_;
  std::vector<std::string> errors_;
  libkineto::getLinkedActivityCallback linked_;
  std::unique_ptr<libkineto::CpuTraceBuffer> buffer_;
  std::set<Lane> lanes_;
  // What the work of a range took on a lane, by the range's id.
  std::map<std::pair<Lane, uint64_t>, Span> ranges_;
};

GenericTraceActivity& Session::add(ActivityType type, const std::string& name, Span span) {
  buffer_->emplace_activity(buffer_->span, type, name);
  GenericTraceActivity& activity = *buffer_->activities.back();
  activity.startTime = span.begin;
  activity.endTime = std::max(span.begin, span.end);
  return activity;
}

void Session::add_call(const TraceCall& call, Span span, int32_t id, bool flows) {
  GenericTraceActivity& activity = add(ActivityType::PRIVATEUSE1_RUNTIME, call_name(call), span);
  activity.device = static_cast<int32_t>(getpid());
  activity.resource = call.thread;
  activity.threadId = call.thread;
  activity.linked = call.operator_id == 0 ? nullptr : linked_(call.operator_id);
  if (activity.linked != nullptr) {
    // PyTorch timed the operator by another clock, some ten nanoseconds off; a
    // call that looks longer than it would be drawn in a lane of its own.
    const int64_t begin = activity.linked->timestamp();
    const int64_t end = begin + activity.linked->duration();
    activity.startTime = std::clamp(activity.startTime, begin, end);
    activity.endTime = std::clamp(activity.endTime, begin, end);
  }
  // What is linked to nothing is taken for an operator of that id, whose device
  // time would be counted once more.
  activity.id = activity.linked == nullptr ? 0 : id;
  if (flows) {
    activity.flow.id = id;
    activity.flow.type = libkineto::kLinkAsyncCpuGpu;
    activity.flow.start = 1;
    activity.addMetadata("correlation", id);
  }
}

void Session::add_run(const TraceRun& run, int32_t id, const TraceCall* call) {
  const Span span{clock_.to_unix(run.begin), clock_.to_unix(run.end)};
  GenericTraceActivity& activity = add(run_type(run.kind), run_name(run), span);
  activity.device = run.device;
  activity.resource = static_cast<int32_t>(run.stream);
  activity.id = id;
  activity.addMetadata("device", run.device);
  activity.addMetadata("stream", run.stream);
  activity.addMetadata("correlation", id);
  if (run.kind == orTraceMemcpy || run.kind == orTraceMemset) {
    activity.addMetadata("bytes", run.size);
    if (run.end > run.begin) {
      activity.addMetadata("memory bandwidth (GB/s)", static_cast<double>(run.size) /
                                                          static_cast<double>(run.end - run.begin));
    }
  }
  if (run.error != orSuccess) {
    activity.addMetadataQuoted("error", orGetErrorName(run.error));
  }
  const Lane lane{run.device, run.stream};
  lanes_.insert(lane);
  if (call == nullptr) {
    return; // launched before the profile began
  }
  activity.linked = call->operator_id == 0 ? nullptr : linked_(call->operator_id);
  if (wanted(ActivityType::PRIVATEUSE1_RUNTIME)) {
    activity.flow.id = id;
    activity.flow.type = libkineto::kLinkAsyncCpuGpu;
    activity.flow.start = 0;
  }
  for (const TraceRange* range = call->range; range != nullptr; range = range->parent) {
    const auto [found, is_new] = ranges_.try_emplace({lane, range->id}, span);
    found->second.begin = std::min(found->second.begin, span.begin);
    found->second.end = std::max(found->second.end, span.end);
  }
}

void Session::add_ranges() {
  for (const auto& [key, span] : ranges_) {
    const libkineto::ITraceActivity* range = linked_(static_cast<int32_t>(key.second));
    if (range == nullptr) {
      continue;
    }
    // Not linked: what is linked to a range counts as its device time, and the
    // work in it does already.
    GenericTraceActivity& activity = add(ActivityType::GPU_USER_ANNOTATION, range->name(), span);
    activity.device = key.first.first;
    activity.resource = static_cast<int32_t>(key.first.second);
    activity.id = static_cast<int32_t>(range->correlationId());
  }
}

void Session::processTrace(libkineto::ActivityLogger& logger,
                           libkineto::getLinkedActivityCallback linked,
                           int64_t start,
                           int64_t end) {
  linked_ = std::move(linked);
  buffer_ = std::make_unique<libkineto::CpuTraceBuffer>();
  buffer_->span = libkineto::TraceSpan(start, end, "openreg");
  buffer_->span.iteration = 0;
  buffer_->gpuOpCount = 0;

  // Kineto's ids have 32 bits, ours 64: number the launches of this profile.
  std::unordered_map<uint64_t, std::pair<int32_t, const TraceCall*>> launches;
  std::unordered_map<uint64_t, const TraceRun*> runs;
  int32_t last_id = 0;
  for (const auto& thread : trace_.threads()) {
    for (const TraceCall& call : thread->calls) {
      if (call.correlation != 0) {
        launches.try_emplace(call.correlation, ++last_id, &call);
      }
    }
  }
  for (const auto& thread : trace_.threads()) {
    for (const TraceRun& run : thread->runs) {
      if (launches.try_emplace(run.correlation, last_id + 1, nullptr).second) {
        ++last_id; // launched before the profile began
      }
      runs.try_emplace(run.correlation, &run);
    }
  }

  if (wanted(ActivityType::PRIVATEUSE1_RUNTIME)) {
    for (const auto& thread : trace_.threads()) {
      for (const TraceCall& call : thread->calls) {
        Span span{clock_.to_unix(call.begin), clock_.to_unix(call.end)};
        const auto run = runs.find(call.correlation);
        const bool ran = call.correlation != 0 && run != runs.end();
        if (ran && run->second->thread == call.thread) {
          // A blocking copy lasts until it is done.
          span.end = clock_.to_unix(run->second->end);
        }
        const int32_t id = call.correlation == 0 ? 0 : launches[call.correlation].first;
        add_call(call, span, id, ran);
      }
    }
  }
  for (const auto& thread : trace_.threads()) {
    for (const TraceRun& run : thread->runs) {
      if (wanted(run_type(run.kind))) {
        const auto& [id, call] = launches[run.correlation];
        add_run(run, id, call);
        buffer_->gpuOpCount++;
      }
    }
  }
  if (wanted(ActivityType::GPU_USER_ANNOTATION)) {
    add_ranges();
  }

  std::set<int> devices;
  for (const Lane& lane : lanes_) {
    if (devices.insert(lane.first).second && devices.size() > 1) {
      logger.handleDeviceInfo(device_info(lane.first), start);
    }
  }
  buffer_->span.opCount = static_cast<int>(buffer_->activities.size());
  for (const auto& activity : buffer_->activities) {
    activity->log(logger);
  }
}

std::vector<libkineto::ResourceInfo> Session::getResourceInfos() {
  std::vector<libkineto::ResourceInfo> infos;
  for (const auto& [device, stream] : lanes_) {
    orStream_t handle = nullptr;
    uint64_t default_id = 0;
    OPENREG_CHECK(orDeviceGetDefaultStream(&handle, device));
    OPENREG_CHECK(orStreamGetId(handle, &default_id));
    const std::string number = std::to_string(stream);
    infos.push_back(
        {static_cast<int64_t>(stream), static_cast<int64_t>(stream), device,
         stream == default_id ? "stream " + number + " (default)" : "stream " + number});
  }
  return infos;
}

// JSON objects, comma-separated, as viewers of traces expect them.
std::string Session::getDeviceProperties() {
  std::string json;
  for (int device = 0; device < device_count(); ++device) {
    orDeviceProp properties;
    OPENREG_CHECK(orGetDeviceProperties(&properties, device));
    json += fmt::format(R"({}
      {{
        "id": {}, "name": "{}", "totalGlobalMem": {},
        "computeMajor": {}, "computeMinor": {}, "numSms": {}
      }})",
                        device == 0 ? "" : ",", device, properties.name, properties.total_memory,
                        properties.major, properties.minor, properties.multi_processor_count);
  }
  return json;
}

class Profiler final : public libkineto::IActivityProfiler {
 public:
  const std::string& name() const override {
    static const std::string name = "openreg";
    return name;
  }

  const Types& availableActivities() const override {
    static const Types types = {ActivityType::CONCURRENT_KERNEL, ActivityType::GPU_MEMCPY,
                                ActivityType::GPU_MEMSET, ActivityType::GPU_USER_ANNOTATION,
                                ActivityType::PRIVATEUSE1_RUNTIME};
    return types;
  }

  // No session for a profile of the CPU alone, nor for one that times operators
  // by events (ProfilerStubs.cpp), whose device times would be counted twice.
  std::unique_ptr<libkineto::IActivityProfilerSession>
  configure(const Types& types, const libkineto::Config& /*config*/) override {
    if (types.count(ActivityType::CONCURRENT_KERNEL) == 0 &&
        types.count(ActivityType::GPU_MEMCPY) == 0 && types.count(ActivityType::GPU_MEMSET) == 0) {
      return nullptr;
    }
    return std::make_unique<Session>(types);
  }

  std::unique_ptr<libkineto::IActivityProfilerSession>
  configure(int64_t /*start*/,
            int64_t /*duration*/,
            const Types& types,
            const libkineto::Config& config) override {
    return configure(types, config);
  }
};

REGISTER_PRIVATEUSE1_PROFILER(Profiler);

} // namespace
} // namespace c10::openreg
