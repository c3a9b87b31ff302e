#include "strategies/placement/map_file.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "moesim/error.hpp"
#include "strategies/placement/eplb.hpp"
#include "support/files.hpp"

namespace moesim::placement {

using nlohmann::json;

namespace {

constexpr std::string_view rows_key = "physical_to_logical_map";
std::size_t at(int i) { return static_cast<std::size_t>(i); }

int hidden_layers(const MapInfo& info, int moe_layers) { return std::max(info.hidden_layers, moe_layers); }
int hidden_layer(const MapInfo& info, int moe_layer) {
  return info.moe_layers.empty() ? moe_layer : info.moe_layers[at(moe_layer)];
}

bool even_slots(const ExpertPlacement& map) {
  for (int g = 1; g < map.ranks(); ++g)
    if (map.slots_on(Rank(g)) != map.slots_on(Rank(0))) return false;
  return true;
}

std::string row_text(const ExpertPlacement& map) {
  std::string out = "[";
  for (int s = 0; s < map.slots(); ++s)
    out += fmt::format("{}{}", s == 0 ? "" : ", ", map.expert_of_slot[at(s)].value());
  return out + "]";
}

std::string rows_text(const std::vector<std::string>& rows, std::string_view indent) {
  std::string out = "[";
  for (std::size_t r = 0; r < rows.size(); ++r) out += fmt::format("{}\n{}  {}", r == 0 ? "" : ",", indent, rows[r]);
  return out + fmt::format("\n{}]", indent);
}

void require_even(const LayerMaps& maps, MapFormat format) {
  for (std::size_t l = 0; l < maps.size(); ++l)
    if (!even_slots(maps[l]) || maps[l].slots() != maps.front().slots())
      throw InputError({},
                       fmt::format("MoE layer {}: GPUs hold different numbers of experts, which {} cannot load", l,
                                   to_string(format)),
                       "ask for clusters of equal size, or write the moesim form");
}

}  // namespace

std::string_view to_string(MapFormat format) {
  switch (format) {
    case MapFormat::moesim:
      return "moesim";
    case MapFormat::sglang:
      return "sglang";
    case MapFormat::vllm:
      return "vllm";
  }
  return "";
}

std::optional<MapFormat> parse_map_format(std::string_view name) {
  for (const MapFormat f : {MapFormat::moesim, MapFormat::sglang, MapFormat::vllm})
    if (to_string(f) == name) return f;
  return std::nullopt;
}

MapInfo info_of(const Model& model, const ClusterShape& shape) {
  MapInfo out;
  out.model = model.name;
  out.gpus = shape.gpus;
  out.nodes = shape.nodes;
  out.hidden_layers = static_cast<int>(model.layers.size());
  for (int l = 0; l < out.hidden_layers; ++l)
    if (const auto& moe = model.layers[at(l)].moe) {
      out.moe_layers.push_back(l);
      out.experts = static_cast<int>(moe->experts);
    }
  return out;
}

std::string map_text(const LayerMaps& maps, const MapInfo& info, MapFormat format) {
  std::vector<std::string> rows;
  for (const ExpertPlacement& map : maps) rows.push_back(row_text(map));
  const int layers = static_cast<int>(maps.size());
  if (format != MapFormat::moesim) require_even(maps, format);
  if (format == MapFormat::vllm) return rows_text(rows, "") + "\n";
  if (format == MapFormat::sglang) {
    ExpertPlacement unread;
    for (int s = 0; s < maps.front().slots(); ++s) unread.expert_of_slot.emplace_back(s % info.experts);
    std::vector<std::string> all(at(hidden_layers(info, layers)), row_text(unread));
    for (int l = 0; l < layers; ++l) all[at(hidden_layer(info, l))] = rows[at(l)];
    return fmt::format("{{\n  \"{}\": {}\n}}\n", rows_key, rows_text(all, "  "));
  }
  std::string out = "{\n";
  out += "  \"format\": \"moesim expert map\",\n  \"format_version\": 1,\n";
  out += fmt::format("  \"model\": {},\n  \"method\": {},\n", json(info.model).dump(), json(info.method).dump());
  out += fmt::format("  \"moe_layers\": {},\n  \"experts\": {},\n  \"gpus\": {},\n  \"nodes\": {},\n", layers,
                     info.experts, info.gpus, info.nodes);
  if (!info.moe_layers.empty()) out += fmt::format("  \"layer_of_moe_layer\": {},\n", json(info.moe_layers).dump());
  if (!std::all_of(maps.begin(), maps.end(), even_slots)) {
    std::vector<std::string> begins;
    for (const ExpertPlacement& map : maps) begins.push_back(json(map.slot_begin).dump());
    out += fmt::format("  \"slot_begin\": {},\n", rows_text(begins, "  "));
  }
  return out + fmt::format("  \"{}\": {}\n}}\n", rows_key, rows_text(rows, "  "));
}

void write_map(const std::string& path, const LayerMaps& maps, const MapInfo& info, MapFormat format) {
  write_file(path, map_text(maps, info, format));
}

// ---- reading
// ---------------------------------------------------------------------------------------------------------

namespace {

// Finds places in a JSON text: where element [row][column] of the array of arrays stands that begins at `begin`.
class Places {
 public:
  Places(const std::string& text, std::string file) : text_(text), file_(std::move(file)) {
    const std::size_t key = text.find(fmt::format("\"{}\"", rows_key));
    begin_ = text.find('[', key == std::string::npos ? 0 : key);
  }
  [[nodiscard]] SourcePlace of(std::size_t offset) const {
    SourcePlace place{file_, 1, 1};
    for (std::size_t i = 0; i < std::min(offset, text_.size()); ++i) {
      place.column = text_[i] == '\n' ? 1 : place.column + 1;
      if (text_[i] == '\n') ++place.line;
    }
    return place;
  }
  [[nodiscard]] SourcePlace of_key(std::string_view key) const {
    const std::size_t offset = text_.find(fmt::format("\"{}\"", key));
    return of(offset == std::string::npos ? 0 : offset);
  }
  [[nodiscard]] SourcePlace rows() const { return of(begin_); }
  // nested: an array of rows; else one row.
  [[nodiscard]] SourcePlace element(bool nested, std::size_t row, std::size_t column) const {
    std::size_t i = begin_ + 1;
    if (nested) {
      for (std::size_t r = 0; r <= row && i < text_.size(); ++r) i = text_.find('[', i) + 1;
    }
    for (std::size_t c = 0; c < column && i < text_.size(); ++c) i = text_.find(',', i) + 1;
    i = text_.find_first_not_of(" \t\r\n", i);
    return of(i);
  }

 private:
  const std::string& text_;
  std::string file_;
  std::size_t begin_ = 0;
};

class MapReader {
 public:
  MapReader(const std::string& text, const std::string& file, const MapInfo& expected, Duplicates duplicates)
      : places_(text, file), expected_(expected), duplicates_(duplicates) {
    try {
      root_ = json::parse(text);
    } catch (const json::parse_error& e) {
      throw InputError(places_.of(e.byte == 0 ? 0 : e.byte - 1),
                       "not JSON: the file is cut off or has a stray character",
                       "a map is an object with physical_to_logical_map, or the rows alone");
    }
  }

  MapRead read() {
    const json* rows = &root_;
    if (root_.is_object()) {
      read_header();
      if (!root_.contains(rows_key))
        throw InputError(places_.of(0), fmt::format("there is no \"{}\"", rows_key),
                         "one row of logical experts per layer, slots rank by rank");
      rows = &root_[std::string(rows_key)];
    }
    if (!rows->is_array() || rows->empty()) fail(places_.rows(), "the map has to be an array of rows");
    if (failed()) throw InputError(std::move(faults_));
    MapRead out{read_rows(*rows), exchanges_};
    if (failed()) throw InputError(std::move(faults_));
    return out;
  }

 private:
  void fail(SourcePlace place, std::string message, std::string hint = {}) {
    if (faults_.size() < 20) faults_.push_back({std::move(place), std::move(message), std::move(hint)});
  }
  [[nodiscard]] bool failed() const { return !faults_.empty(); }

  void read_header() {
    const auto compare = [&](const char* key, const json& value) {
      const auto found = root_.find(key);
      if (found != root_.end() && *found != value)
        fail(places_.of_key(key), fmt::format("the map's {} is {}; here it is {}", key, found->dump(), value.dump()),
             "the map is of another model or cluster");
    };
    if (!expected_.model.empty()) compare("model", expected_.model);
    compare("experts", expected_.experts);
    compare("gpus", expected_.gpus);
    const auto version = root_.find("format_version");
    if (version != root_.end() && *version != 1)
      fail(places_.of_key("format_version"), fmt::format("format_version {}; this program reads 1", version->dump()));
  }

  LayerMaps read_rows(const json& rows) {
    const int moe_layers =
        expected_.moe_layers.empty() ? expected_.hidden_layers : static_cast<int>(expected_.moe_layers.size());
    const bool nested = rows.front().is_array();
    const std::size_t given = nested ? rows.size() : 1;
    // Rows of every transformer layer (SGLang), or of the MoE layers only.
    const bool all_layers = nested && given != at(moe_layers) && given == at(expected_.hidden_layers);
    if (nested && given != 1 && given != at(moe_layers) && !all_layers) {
      fail(places_.rows(),
           fmt::format("{} rows for a model of {} MoE layers ({} layers in all)", given, moe_layers,
                       hidden_layers(expected_, moe_layers)),
           "one row per MoE layer (moesim, vLLM) or per layer (SGLang)");
      return {};
    }
    LayerMaps maps;
    for (int l = 0; l < moe_layers; ++l) {
      const std::size_t r = given == 1 ? 0 : at(all_layers ? hidden_layer(expected_, l) : l);
      maps.push_back(read_row(nested ? rows[r] : rows, nested, r));
      if (given == 1 && failed()) break;
    }
    return maps;
  }

  ExpertPlacement read_row(const json& row, bool nested, std::size_t r) {
    const int experts = expected_.experts;
    ExpertPlacement map;
    if (!row.is_array()) {
      fail(places_.element(nested, r, 0), "a row has to be an array of expert ids");
      return map;
    }
    for (std::size_t s = 0; s < row.size(); ++s) {
      const bool id = row[s].is_number_integer() && row[s] >= 0 && row[s] < experts;
      if (!id)
        fail(places_.element(nested, r, s),
             fmt::format("slot {} holds {}; experts are numbered 0 to {}", s, row[s].dump(), experts - 1));
      map.expert_of_slot.emplace_back(id ? row[s].get<int>() : 0);
    }
    if (failed()) return map;
    const SourcePlace place = places_.element(nested, r, 0);
    if (map.slots() < experts) {
      fail(place, fmt::format("{} slots for {} experts", map.slots(), experts));
      return map;
    }
    if (!read_slot_begin(map, r, place)) return map;
    if (duplicates_ == Duplicates::exchange) {
      const std::vector<double> alike(at(experts), 1.0);
      exchanges_ += distinct_replicas(map, alike, {.gpus = expected_.gpus, .nodes = expected_.nodes});
    }
    try {
      validate(map, experts);
    } catch (const std::invalid_argument& fault) {
      fail(place, fault.what(),
           std::string_view(fault.what()).ends_with("twice")
               ? "a second replica on a GPU is a wasted slot; EPLB's release "
                 "leaves them, and exchanging replicas mends that"
               : "");
    }
    return map;
  }

  bool read_slot_begin(ExpertPlacement& map, std::size_t r, const SourcePlace& place) {
    if (root_.is_object() && root_.contains("slot_begin")) {
      const json& begins = root_["slot_begin"];
      try {
        map.slot_begin = begins.at(r).get<std::vector<int>>();
      } catch (const json::exception&) {
        fail(places_.of_key("slot_begin"), fmt::format("row {} has to be an array of slot numbers", r));
        return false;
      }
      if (map.ranks() == expected_.gpus) return true;
      fail(places_.of_key("slot_begin"),
           fmt::format("row {} is of {} GPUs; here there are {}", r, map.ranks(), expected_.gpus));
      return false;
    }
    if (map.slots() % expected_.gpus != 0) {
      fail(place, fmt::format("{} slots do not divide by {} GPUs", map.slots(), expected_.gpus),
           "the map is of another cluster; maps with uneven GPUs need slot_begin");
      return false;
    }
    for (int g = 1; g <= expected_.gpus; ++g) map.slot_begin.push_back(map.slots() / expected_.gpus * g);
    return true;
  }

  Places places_;
  const MapInfo& expected_;
  Duplicates duplicates_;
  int exchanges_ = 0;
  json root_;
  std::vector<Diagnostic> faults_;
};

}  // namespace

MapRead parse_map(const std::string& text, const std::string& file, const MapInfo& expected, Duplicates duplicates) {
  return MapReader(text, file, expected, duplicates).read();
}

MapRead read_map(const std::string& path, const MapInfo& expected, Duplicates duplicates) {
  return parse_map(read_file(path), path, expected, duplicates);
}

std::string map_table(const LayerMaps& maps, const MapInfo& info, const Loads* loads) {
  std::string out = "moe_layer,layer,node,gpu,slot,expert,replica,replicas,load\n";
  for (int l = 0; l < static_cast<int>(maps.size()); ++l) {
    const ExpertPlacement& map = maps[at(l)];
    std::vector<int> replicas(at(info.experts));
    for (const LogicalExpert e : map.expert_of_slot) ++replicas[e.index()];
    std::vector<int> seen(at(info.experts));
    for (int g = 0; g < map.ranks(); ++g)
      for (int s = map.slot_begin[at(g)]; s < map.slot_begin[at(g) + 1]; ++s) {
        const std::size_t e = map.expert_of_slot[at(s)].index();
        const std::string load = loads == nullptr ? "" : fmt::format("{}", loads->layer(l)[e] / replicas[e]);
        out += fmt::format("{},{},{},{},{},{},{},{},{}\n", l, hidden_layer(info, l), g / (map.ranks() / info.nodes), g,
                           s, e, seen[e]++, replicas[e], load);
      }
  }
  return out;
}

}  // namespace moesim::placement
