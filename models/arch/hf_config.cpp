#include "models/arch/hf_config.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <stdexcept>
#include <utility>

#include "models/arch/families.hpp"
#include "support/files.hpp"

namespace moesim::arch {
namespace {

std::string name_of(const std::string& file) {
  const std::filesystem::path path(file);
  const std::string stem = path.stem().string();
  const std::string folder = path.parent_path().filename().string();
  return stem == "config" && !folder.empty() ? folder : stem;
}

}  // namespace

std::vector<std::string_view> model_types() {
  std::vector<std::string_view> out;
  for (const Family& family : families()) out.push_back(family.model_type);
  return out;
}

bool too_large(const Model& model) {
  try {
    return parameters(model).total > most_parameters;
  } catch (const std::overflow_error&) {
    return true;
  }
}

Model parse_config(std::string text, const std::string& file) {
  ConfigFields fields(file, std::move(text));
  const std::string type = fields.word("model_type");
  const auto family = std::ranges::find(families(), type, &Family::model_type);
  if (family == families().end()) {
    fields.unknown("model_type", type, model_types());
    fields.finish();
  }
  Model model = family->read(fields);
  model.name = name_of(file);
  fields.finish();
  fields.check(!too_large(model), "hidden_size", {},
               fmt::format("the fields describe a model of more than {:.0e} parameters", double{most_parameters}),
               "look for a field with digits too many");
  fields.check(model.moe_layers() > 0, "model_type", {}, "the fields describe a model without any MoE layer");
  fields.finish();
  return model;
}

Model read_config(const std::string& path) {
  constexpr std::size_t most_bytes = std::size_t{16} << 20;  // published ones have a few kB
  return parse_config(read_file(path, most_bytes), path);
}

}  // namespace moesim::arch
