#include "Graph.h"

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <map>
#include <new>

#include "Stream.h"
#include "Trace.h"

namespace openreg {

HandlePool<Graph> graphPool(0x6);

namespace {

HandlePool<GraphExec> execPool(0x7);

orError_t findGraph(const char* caller, orGraph_t handle, Graph** graph) {
  *graph = graphPool.find(handle);
  return *graph ? orSuccess
                : fail(orErrorInvalidResourceHandle, "%s: graph %p does not exist or was destroyed",
                       caller, static_cast<void*>(handle));
}

orError_t findExec(const char* caller, orGraphExec_t handle, GraphExec** exec) {
  *exec = execPool.find(handle);
  return *exec ? orSuccess
               : fail(orErrorInvalidResourceHandle,
                      "%s: executable graph %p does not exist or was destroyed", caller,
                      static_cast<void*>(handle));
}

// A launch in a queue, or in another graph.
struct Launch {
  GraphExec* exec; // a reference
};

const orClosureType launchType = {
    sizeof(Launch),
    alignof(Launch),
    nullptr,
    [](void* closure, const orLaunchContext* context) {
      static_cast<Launch*>(closure)->exec->graph->run(context);
      return orSuccess;
    },
    [](void* closure) { execPool.release(static_cast<Launch*>(closure)->exec); },
    nullptr};

const char* kindName(uint32_t kind) {
  switch (kind) {
    case orTraceKernel:
      return "kernel";
    case orTraceMemcpy:
      return "memcpy";
    case orTraceMemset:
      return "memset";
    case orTraceHostFunc:
      return "host";
    case orTraceGraph:
      return "graph";
  }
  return "other";
}

void printQuoted(FILE* file, const char* text) {
  for (; *text; ++text) {
    if (*text == '"' || *text == '\\') {
      fputc('\\', file);
    }
    fputc(*text, file);
  }
}

void printDot(FILE* file, const Graph& graph) {
  std::map<uint64_t, std::vector<size_t>> streams;
  for (size_t i = 0; i < graph.nodes.size(); ++i) {
    streams[graph.nodes[i].stream].push_back(i);
  }
  fprintf(file, "digraph openreg {\n  node [shape=box, style=rounded, fontname=\"Helvetica\"];\n");
  for (const auto& [stream, nodes] : streams) {
    auto id = static_cast<unsigned long long>(stream);
    fprintf(file, "  subgraph cluster_%llu {\n    label=\"stream %llu\";\n", id, id);
    for (size_t i : nodes) {
      const Record& record = graph.nodes[i].record;
      fprintf(file, "    n%zu [label=\"%zu: ", i, i);
      printQuoted(file, record.name);
      fprintf(file, "\\n%s", kindName(record.kind));
      if (record.size) {
        fprintf(file, ", %zu bytes", record.size);
      }
      fprintf(file, "\"];\n");
    }
    fprintf(file, "  }\n");
  }
  for (size_t i = 0; i < graph.nodes.size(); ++i) {
    for (size_t before : graph.nodes[i].depends) {
      fprintf(file, "  n%zu -> n%zu;\n", before, i);
    }
  }
  fprintf(file, "}\n");
}

} // namespace

void* Graph::allocate(const orClosureType* type) {
  if (type->size > Chunk::kBytes / 4) {
    return newHeapClosure(type);
  }
  size_t begin = (chunk_used_ + type->alignment - 1) & ~(type->alignment - 1);
  if (chunks_.empty() || begin + type->size > Chunk::kBytes) {
    Chunk* chunk = new (std::nothrow) Chunk;
    if (!chunk) {
      return nullptr;
    }
    chunks_.emplace_back(chunk);
    begin = 0;
  }
  chunk_used_ = begin + type->size;
  return chunks_.back()->bytes + begin;
}

bool Graph::append(const Work& work, void* closure, uint64_t stream, std::vector<size_t> depends) {
  void* target = allocate(work.type);
  if (!target) {
    return false;
  }
  Node& node = nodes.emplace_back();
  node.stream = stream;
  node.depends = std::move(depends);
  node.record.kind = work.kind;
  node.record.name = work.name;
  node.record.type = work.type;
  node.record.closure = target;
  node.record.pointer = work.pointer;
  node.record.source = work.source;
  node.record.size = work.size;
  if (work.type->move) {
    work.type->move(target, closure);
  } else {
    memcpy(target, closure, work.type->size);
  }
  return true;
}

void Graph::run(const orLaunchContext* context) {
  // The context is the stream's own, which each node fills anew.
  const uint64_t correlation = context->correlation;
  Stream* stream = Stream::ofThisThread();
  std::lock_guard<std::mutex> guard(run_mutex_);
  for (Node& node : nodes) {
    node.record.correlation = correlation;
    stream->runNested(&node.record);
  }
}

void Graph::recycle() {
  for (Node& node : nodes) {
    const orClosureType* type = node.record.type;
    if (type->destroy) {
      type->destroy(node.record.closure);
    }
    if (type->size > Chunk::kBytes / 4) {
      freeHeapClosure(type, node.record.closure);
    }
  }
  nodes = {};
  chunks_.clear();
  chunk_used_ = 0;
  if (last_launch.stream) {
    streamPool.release(last_launch.stream);
  }
  last_launch = {};
}

void GraphExec::recycle() {
  graphPool.release(graph);
  graph = nullptr;
}

} // namespace openreg

using namespace openreg;

orError_t orGraphInstantiate(orGraphExec_t* exec, orGraph_t graph) {
  OR_TRY(ensureReady());
  Graph* found;
  OR_TRY(findGraph("orGraphInstantiate", graph, &found));
  if (!exec) {
    return fail(orErrorInvalidValue, "orGraphInstantiate: exec is NULL");
  }
  GraphExec* created = execPool.create();
  if (!created) {
    return fail(orErrorNotSupported, "orGraphInstantiate: too many executable graphs exist");
  }
  graphPool.addReference(found);
  created->graph = found;
  *exec = reinterpret_cast<orGraphExec_t>(execPool.handleFor(created));
  execPool.publish(created);
  return orSuccess;
}

orError_t orGraphDestroy(orGraph_t graph) {
  OR_TRY(ensureReady());
  Graph* found;
  OR_TRY(findGraph("orGraphDestroy", graph, &found));
  if (!graphPool.retire(found, graph)) {
    return fail(orErrorInvalidResourceHandle,
                "orGraphDestroy: graph %p was destroyed by another thread",
                static_cast<void*>(graph));
  }
  graphPool.release(found);
  return orSuccess;
}

orError_t orGraphExecDestroy(orGraphExec_t exec) {
  OR_TRY(ensureReady());
  GraphExec* found;
  OR_TRY(findExec("orGraphExecDestroy", exec, &found));
  if (!execPool.retire(found, exec)) {
    return fail(orErrorInvalidResourceHandle,
                "orGraphExecDestroy: executable graph %p was destroyed by another thread",
                static_cast<void*>(exec));
  }
  execPool.release(found);
  return orSuccess;
}

orError_t orGraphLaunch(orGraphExec_t exec, orStream_t stream) {
  OR_TRY(ensureReady());
  GraphExec* found;
  OR_TRY(findExec("orGraphLaunch", exec, &found));
  Stream* on;
  OR_TRY(findStream("orGraphLaunch", stream, &on));
  Graph* graph = found->graph;
  if (on->device != graph->device) {
    return fail(orErrorInvalidValue,
                "orGraphLaunch: stream must be of device %d, where the graph was captured, but "
                "is of device %d",
                graph->device->ordinal, on->device->ordinal);
  }
  OR_TRY(on->device->checkSticky());
  execPool.addReference(found);
  Launch launch{found};
  Work work;
  work.kind = orTraceGraph;
  work.name = "graphLaunch";
  work.type = &launchType;
  work.correlation = newCorrelation();

  std::lock_guard<std::mutex> guard(graph->launch_mutex);
  const bool captured = on->capture.load(std::memory_order_relaxed) != nullptr;
  Point& last = graph->last_launch;
  orError_t error = orSuccess;
  if (!captured && last.stream != on && !isReached(last)) {
    streamPool.addReference(last.stream);
    error = submitWait(on, last);
    if (error != orSuccess && !isLaunchError(error)) {
      streamPool.release(last.stream);
      execPool.release(found);
      return error;
    }
  }
  Point point{on, on->issued()};
  error = submitTraced(on, work, &launch, &point.number);
  if (error != orSuccess && !isLaunchError(error)) {
    execPool.release(found);
    return error;
  }
  if (!captured && last.stream != on) {
    streamPool.addReference(on);
    std::swap(last, point);
    if (point.stream) {
      streamPool.release(point.stream);
    }
  } else if (!captured) {
    last.number = point.number;
  }
  return error;
}

orError_t orGraphGetNodes(orGraph_t graph, orGraphNode* nodes, size_t capacity, size_t* count) {
  OR_TRY(ensureReady());
  Graph* found;
  OR_TRY(findGraph("orGraphGetNodes", graph, &found));
  if (!count || (!nodes && capacity)) {
    return fail(orErrorInvalidValue, "orGraphGetNodes: %s is NULL", count ? "nodes" : "count");
  }
  for (size_t i = 0; i < capacity && i < found->nodes.size(); ++i) {
    const Graph::Node& node = found->nodes[i];
    nodes[i] = {node.record.kind,    node.record.name,    node.stream,
                node.depends.data(), node.depends.size(), node.record.size};
  }
  *count = found->nodes.size();
  return orSuccess;
}

orError_t orGraphDebugDotPrint(orGraph_t graph, const char* path) {
  OR_TRY(ensureReady());
  Graph* found;
  OR_TRY(findGraph("orGraphDebugDotPrint", graph, &found));
  if (!path) {
    return fail(orErrorInvalidValue, "orGraphDebugDotPrint: path is NULL");
  }
  FILE* file = fopen(path, "w");
  bool written = file != nullptr;
  if (file) {
    printDot(file, *found);
    written = !ferror(file);
    written &= fclose(file) == 0;
  }
  return written ? orSuccess
                 : fail(orErrorInvalidValue, "orGraphDebugDotPrint: path: cannot write %s (%s)",
                        path, strerror(errno));
}
