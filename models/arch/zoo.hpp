// The models that ship: models/arch/zoo/NAME.json, each a config.json cut down to the fields that are read, with its
// source in "_source". A published config.json works as well as one of these.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "models/arch/overrides.hpp"
#include "moesim/error.hpp"
#include "moesim/model.hpp"
#include "moesim/units.hpp"

namespace moesim::arch {

// Names of the models that ship, sorted.
std::vector<std::string> zoo_names();

// A model of the zoo by name (case and an "organization/" in front do not matter), or a file by a path that ends in
// .json. Throws InputError: at `place` for an unknown name, naming the nearest one, and for overrides that do not fit;
// in the file itself for what is wrong there.
Model load(std::string_view name_or_path, const Overrides& overrides = {}, const SourcePlace& place = {});

// Parameters of the input embedding and the output head together. Some model cards leave one or both out of the active
// parameters (gpt-oss the input embedding, Qwen3-Next both).
std::int64_t embedding_parameters(const Model& model);

// Bytes of all weights in their published formats, scales of block formats included. Norms and biases count as weights.
Bytes weight_bytes(const Model& model);

// Weights of one routed expert of the first MoE layer, scales of block formats included; 0 without MoE layers.
Bytes expert_bytes(const Model& model);

// One line for a list of models, columns aligned with summary_header().
std::string summary(const Model& model);
std::string summary_header();

}  // namespace moesim::arch
