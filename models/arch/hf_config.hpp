// Models from Hugging Face's config.json as published with the weights. Only what decides shapes is read; what such a
// file says about tokens, training or generation is passed over.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "moesim/model.hpp"

namespace moesim::arch {

// Reads one config.json; the model is named after the file, or after its folder when the file is called config.json.
// Throws InputError with all of the file's problems: unreadable or not JSON, an unknown model_type, fields that are
// missing, of the wrong type, out of range, or at odds with each other (top_k above the number of experts, head counts
// that do not divide, no MoE layer).
Model read_config(const std::string& path);

// The same from text; `file` is what errors name.
Model parse_config(std::string text, const std::string& file);

// The model_type values that are understood.
std::vector<std::string_view> model_types();

// A model cannot be meant to have more parameters than this; the largest published ones have a few 10^12.
inline constexpr std::int64_t most_parameters = 1'000'000'000'000'000;
bool too_large(const Model& model);

}  // namespace moesim::arch
