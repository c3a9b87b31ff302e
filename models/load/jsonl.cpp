#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <numeric>

#include "models/load/problems.hpp"
#include "models/load/recording.hpp"
#include "support/files.hpp"

namespace moesim::load {
namespace {

using Json = nlohmann::json;

struct LayerRows {
  std::vector<std::int64_t> ids;  // [row, top_k]
  std::vector<std::string> who;   // [row]: request and token, where the record says
  std::vector<int> line;          // [row]
};

// ids by falling weight; the order of equals, and of all where there are no weights, is the record's.
void order_by_weight(std::vector<std::int64_t>& ids, const std::vector<double>& weights) {
  if (weights.size() != ids.size() || std::is_sorted(weights.rbegin(), weights.rend())) return;
  std::vector<std::size_t> order(ids.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return weights[a] > weights[b]; });
  std::vector<std::int64_t> sorted;
  for (const std::size_t i : order) sorted.push_back(ids[i]);
  ids = sorted;
}

class Reader {
 public:
  Reader(const std::string& path, int experts) : problems_(path), check_(experts), experts_(experts) {}

  Recording read(std::string_view text) {
    int line = 0;
    while (!text.empty()) {
      ++line;
      const std::size_t end = std::min(text.find('\n'), text.size());
      const bool complete = end < text.size();
      read_line(text.substr(0, end), line, complete);
      text.remove_prefix(complete ? end + 1 : end);
    }
    problems_.throw_if_any();
    return assemble();
  }

 private:
  void read_line(std::string_view text, int line, bool complete) {
    if (text.find_first_not_of(" \t\r") == std::string_view::npos) return;
    Json record;
    try {
      record = Json::parse(text);
    } catch (const Json::parse_error& e) {
      problems_.add(line, static_cast<int>(e.byte), "is not a JSON value",
                    complete ? "one JSON object per line; NaN and Infinity are not JSON"
                             : "the file ends inside this record: it may be cut off");
      return;
    }
    if (!record.is_object()) return problems_.add(line, 1, "is not a JSON object");
    if (const auto type = record.find("type"); type != record.end() && *type != "route") return;
    const auto layer = record.find("layer");
    if (layer == record.end() || !layer->is_number_integer() || *layer < 0 || *layer > 1'000'000)
      return problems_.add(line, 1,
                           fmt::format("'layer' is {}; it must be a whole number from 0",
                                       layer == record.end() ? "missing" : layer->dump()));
    std::vector<std::int64_t> ids;
    if (!read_ids(record, line, ids)) return;
    LayerRows& rows = layers_[layer->get<int>()];
    rows.ids.insert(rows.ids.end(), ids.begin(), ids.end());
    rows.line.push_back(line);
    const auto text_of = [&](const char* key) { return record.contains(key) ? record[key].dump() : ""; };
    rows.who.push_back(text_of("req_id") + ":" + text_of("token_idx"));
  }

  bool read_ids(const Json& record, int line, std::vector<std::int64_t>& ids) {
    const auto list = record.find("topk_ids");
    if (list == record.end() || !list->is_array() || list->empty()) {
      problems_.add(line, 1, "'topk_ids' is missing, or not a list of expert ids");
      return false;
    }
    for (const Json& id : *list) {
      if (!id.is_number_integer()) {
        problems_.add(line, 1, fmt::format("'topk_ids' holds {}; expert ids are whole numbers", id.dump()));
        return false;
      }
      // Beyond int64 is beyond any model as well.
      ids.push_back(id.is_number_unsigned() && id.get<std::uint64_t>() > INT64_MAX ? INT64_MAX
                                                                                   : id.get<std::int64_t>());
    }
    if (top_k_ == 0) top_k_ = ids.size();
    if (ids.size() != top_k_) {
      problems_.add(line, 1, fmt::format("'topk_ids' has {} ids, the records before it have {}", ids.size(), top_k_));
      return false;
    }
    if (std::string fault = check_.fault(ids); !fault.empty()) {
      problems_.add(line, 1, std::move(fault));
      return false;
    }
    std::vector<double> weights;
    if (const auto given = record.find("topk_weights"); given != record.end() && given->is_array())
      for (const Json& w : *given)
        if (w.is_number()) weights.push_back(w.get<double>());
    order_by_weight(ids, weights);
    return true;
  }

  Recording assemble() {
    if (layers_.empty()) {
      problems_.add(0, 0, "is empty: no record names expert ids",
                    "records look like {\"layer\": 0, \"topk_ids\": [3, 1]}");
      problems_.throw_if_any();
    }
    const auto& [first_layer, first] = *layers_.begin();
    for (const auto& [layer, rows] : layers_) {
      const std::size_t common = std::min(rows.line.size(), first.line.size());
      const auto at = static_cast<std::size_t>(
          std::mismatch(rows.who.begin(), rows.who.begin() + static_cast<std::ptrdiff_t>(common), first.who.begin())
              .first -
          rows.who.begin());
      if (at < common)
        problems_.add(rows.line[at], 1,
                      fmt::format("record {} of layer {} is of {}, but of layer {} it is of {} (line {})", at, layer,
                                  rows.who[at], first_layer, first.who[at], first.line[at]),
                      "every layer has to list the same tokens in the same order");
      else if (rows.line.size() != first.line.size())
        problems_.add(rows.line.back(), 1,
                      fmt::format("layer {} ends with {} records, layer {} has {}", layer, rows.line.size(),
                                  first_layer, first.line.size()),
                      "every layer has to list the same tokens in the same order");
    }
    problems_.throw_if_any();
    Recording out{static_cast<int>(layers_.size()), static_cast<int>(top_k_),
                  static_cast<std::int64_t>(first.line.size()), ExpertIds(experts_)};
    out.ids.resize(layers_.size() * first.ids.size());
    std::size_t offset = 0;
    for (const auto& [layer, rows] : layers_) {
      out.ids.set(offset, rows.ids);
      offset += rows.ids.size();
    }
    return out;
  }

  Problems problems_;
  TokenCheck check_;
  int experts_;
  std::size_t top_k_ = 0;
  std::map<int, LayerRows> layers_;
};

}  // namespace

Recording read_jsonl(const std::string& path, int experts) { return Reader(path, experts).read(read_file(path)); }

}  // namespace moesim::load
