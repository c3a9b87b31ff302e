#include "study/moe_layers.hpp"

#include <algorithm>

namespace moesim::study {

bool in_moe_layer(const TimelineOp& op) {
  return op.layer.valid() &&
         (op.category == to_string(Category::gate) || op.category == to_string(Category::dispatch) ||
          op.category == to_string(Category::experts) || op.category == to_string(Category::combine));
}

std::map<Layer, MoeLayerTime> moe_layers(const std::vector<TimelineOp>& ops, const Timeline& timeline) {
  struct Extent {
    Picoseconds begin = Picoseconds::max();
    Picoseconds end;
  };
  std::map<std::pair<Layer, Pass>, std::map<Rank, Extent>> extents;
  for (const Span& s : timeline.spans) {
    const TimelineOp& op = ops[s.op.index()];
    if (!in_moe_layer(op)) continue;
    Extent& e = extents[{op.layer, op.pass}][s.rank];
    e.begin = std::min(e.begin, s.ready);
    e.end = std::max(e.end, s.end);
  }
  std::map<Layer, MoeLayerTime> out;
  for (const auto& [at, ranks] : extents) {
    MoeLayerTime& t = out[at.first];
    for (const auto& [rank, e] : ranks) {
      t.sum += e.end - e.begin;
      t.ranks += at.second == Pass::forward ? 1 : 0;
    }
  }
  return out;
}

}  // namespace moesim::study
