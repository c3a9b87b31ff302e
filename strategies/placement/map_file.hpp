// Maps as files. docs/placement.md has the forms in full.
//
//   moesim   an object: what the map is of (model, layers, experts, GPUs, nodes, method) and physical_to_logical_map,
//            one row of logical experts per MoE layer, slots rank by rank; slot_begin where GPUs hold different numbers
//   sglang   {"physical_to_logical_map": rows} and nothing else: sglang.launch_server --init-expert-location FILE. One
//   row
//            per transformer layer; rows of layers without experts are not read and hold slot i = expert i mod E
//   vllm     the rows alone, one per MoE layer, as vLLM keeps them (EplbState.physical_to_logical_map)
// SGLang and vLLM need the same number of slots on every GPU.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "moesim/model.hpp"
#include "strategies/placement/problem.hpp"

namespace moesim::placement {

enum class MapFormat : std::uint8_t { moesim, sglang, vllm };
std::string_view to_string(MapFormat format);
std::optional<MapFormat> parse_map_format(std::string_view name);

// What a map is of.
struct MapInfo {
  std::string model;
  std::string method;
  int experts = 0;
  int gpus = 0;
  int nodes = 1;
  int hidden_layers = 0;        // transformer layers
  std::vector<int> moe_layers;  // [MoE layers] which transformer layers they are; empty = all, in order
};

MapInfo info_of(const Model& model, const ClusterShape& shape);  // without a method

std::string map_text(const LayerMaps& maps, const MapInfo& info, MapFormat format);  // throws InputError: see above
void write_map(const std::string& path, const LayerMaps& maps, const MapInfo& info, MapFormat format);

// What to do with a GPU that holds an expert twice, as EPLB's release leaves it and engines accept it.
enum class Duplicates : std::uint8_t {
  refuse,    // a fault: the second replica is a wasted slot, and a plan cannot have it
  exchange,  // exchange replicas until they are distinct (eplb.hpp); shares are taken as equal
};

// Any of the forms; `expected` is what it is to be used for. Every fault at its line and column: not JSON, rows or
// slots missing or too many, ids out of range, an expert without a slot, one twice on a GPU, another model or cluster.
// A single row stands for all layers. An empty expected.model is not compared.
struct MapRead {
  LayerMaps maps;
  int exchanges = 0;
};
MapRead read_map(const std::string& path, const MapInfo& expected, Duplicates duplicates = Duplicates::refuse);
MapRead parse_map(const std::string& text, const std::string& file, const MapInfo& expected,
                  Duplicates duplicates = Duplicates::refuse);

// One line per slot: moe_layer, layer, node, gpu, slot, expert, replica (0 ...), replicas, load (token copies of the
// slot under even dispatch; without loads the column is empty). Comma-separated, with a header line.
std::string map_table(const LayerMaps& maps, const MapInfo& info, const Loads* loads = nullptr);

}  // namespace moesim::placement
