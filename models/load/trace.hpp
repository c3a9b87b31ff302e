// Recorded routing: what real routers chose, read from a file.
//
// By the file's name (each also with .gz):
//   .npy, .jsonl   the experts of every token and layer (recording.hpp)
//   .csv           tokens per expert and layer (counts.hpp). Which token used which expert is not recorded: the counts
//                  are spread over the workload's tokens by systematic sampling, exact over all of them
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "models/load/shape.hpp"
#include "models/load/window.hpp"
#include "moesim/routing.hpp"

namespace moesim::load {

// How layers of the record stand for MoE layers of the model.
enum class LayerMap : std::uint8_t {
  exact,  // as many as the model has
  cycle,  // layer l is the record's layer l mod (recorded layers)
};

struct TraceSpec {
  std::string path;
  // What the workload needs. experts is required; moe_layers, top_k and tokens may be 0: as recorded (top_k of .csv:
  // 1). Groups are not looked at.
  RoutingShape shape{0, 0, 0, 1, 1, 0};
  bool repeat = false;  // a window with fewer tokens than the workload starts over; otherwise that is an error
  LayerMap layers = LayerMap::exact;
  Window window;
  std::uint64_t seed = 0;  // of .csv's sampling
};

class RecordedRouting : public Routing {
 public:
  [[nodiscard]] bool synthetic() const override { return false; }
  // What a reader of results should know about the record: repeated rows, tiling, layers that stand for others.
  [[nodiscard]] const std::vector<std::string>& notes() const { return notes_; }

 protected:
  std::vector<std::string> notes_;
};

// Throws InputError with every fault of the file.
std::unique_ptr<RecordedRouting> open_trace(const TraceSpec& spec);

// Writes tokens [first, first + count) of every layer as [layers, tokens, top_k] of unsigned 8- or 16-bit integers, for
// numpy.load and for open_trace. Throws InputError where it cannot be written.
void write_npy(const std::string& path, const Routing& routing, std::int64_t first, std::int64_t count);

}  // namespace moesim::load
