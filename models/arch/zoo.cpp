#include "models/arch/zoo.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <filesystem>

#include "models/arch/hf_config.hpp"
#include "support/files.hpp"
#include "support/text.hpp"

namespace moesim::arch {
namespace {

constexpr std::string_view folder = "models/arch/zoo";

std::string lower(std::string_view s) {
  std::string out(s);
  for (char& c : out) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return out;
}

std::string count(std::int64_t n) {
  const double v = static_cast<double>(n);
  return n >= 1'000'000'000 ? fmt::format("{:.1f} B", v * 1e-9) : fmt::format("{:.1f} M", v * 1e-6);
}

const MoeBlock* first_moe(const Model& model) {
  for (const TransformerLayer& layer : model.layers)
    if (layer.moe) return &*layer.moe;
  return nullptr;
}

}  // namespace

std::vector<std::string> zoo_names() {
  std::vector<std::string> out;
  for (const auto& entry : std::filesystem::directory_iterator(data_path(folder)))
    if (entry.path().extension() == ".json") out.push_back(entry.path().stem().string());
  std::ranges::sort(out);
  return out;
}

Model load(std::string_view name_or_path, const Overrides& overrides, const SourcePlace& place) {
  if (name_or_path.ends_with(".json")) return with_overrides(read_config(std::string(name_or_path)), overrides, place);
  const std::string name = lower(name_or_path.substr(name_or_path.rfind('/') + 1));  // npos + 1 == 0
  const std::vector<std::string> names = zoo_names();
  if (std::ranges::find(names, name) == names.end()) {
    const std::string_view nearest = nearest_name(name, {names.begin(), names.end()});
    throw InputError(place, fmt::format("model '{}' is not known", name_or_path),
                     (nearest.empty() ? fmt::format("known: {}", fmt::join(names, ", "))
                                      : fmt::format("did you mean '{}'?", nearest)) +
                         "; or give the path of a config.json");
  }
  return with_overrides(read_config(data_path(fmt::format("{}/{}.json", folder, name))), overrides, place);
}

std::int64_t embedding_parameters(const Model& model) {
  return model.vocabulary * model.hidden * (model.tied_embeddings ? 1 : 2);
}

Bytes weight_bytes(const Model& model) {
  std::int64_t routed = 0;  // elements of the routed experts' matrices; their biases stay in the model's format
  for (const TransformerLayer& layer : model.layers) {
    if (!layer.moe) continue;
    FeedForward matrices = layer.moe->expert;
    matrices.bias = false;
    routed += parameters(matrices, model.hidden) * layer.moe->experts;
  }
  const Bytes scales(model.expert_scale_block > 0 ? routed / model.expert_scale_block : 0);
  return storage(parameters(model).total - routed, model.weights) + storage(routed, model.expert_weights) + scales;
}

Bytes expert_bytes(const Model& model) {
  const MoeBlock* moe = first_moe(model);
  if (moe == nullptr) return Bytes(0);
  FeedForward matrices = moe->expert;
  matrices.bias = false;
  const std::int64_t routed = parameters(matrices, model.hidden);
  const Bytes scales(model.expert_scale_block > 0 ? routed / model.expert_scale_block : 0);
  return storage(routed, model.expert_weights) + scales +
         storage(parameters(moe->expert, model.hidden) - routed, model.weights);
}

std::string summary_header() {
  return fmt::format("{:<22} {:>6} {:>4} {:>6} {:>7} {:>5} {:>10} {:>10} {:>10}", "model", "layers", "moe", "hidden",
                     "experts", "top_k", "parameters", "active", "weights");
}

std::string summary(const Model& model) {
  const ParameterCount parameters_of = parameters(model);
  const MoeBlock* moe = first_moe(model);
  return fmt::format("{:<22} {:>6} {:>4} {:>6} {:>7} {:>5} {:>10} {:>10} {:>10}", model.name, model.layers.size(),
                     model.moe_layers(), model.hidden, moe ? moe->experts : 0, moe ? moe->top_k : 0,
                     count(parameters_of.total), count(parameters_of.active), human_binary(weight_bytes(model)));
}

}  // namespace moesim::arch
