// Equal numbers of experts on every GPU over the whole model, for clusters of different sizes (chain.hpp).
#include <cstdlib>
#include <limits>
#include <map>
#include <numeric>
#include <utility>

#include "strategies/placement/chain.hpp"

namespace moesim::placement {

namespace {
std::size_t at(int i) { return static_cast<std::size_t>(i); }
}  // namespace

std::vector<int> gpu_sizes(const Chain& chain, const Positions& gpu_of) {
  std::vector<int> sizes(at(chain.shape.gpus));
  for (int l = 0; l < chain.layers(); ++l)
    for (std::size_t c = 0; c < gpu_of[at(l)].size(); ++c) sizes[at(gpu_of[at(l)][c])] += chain.size[at(l)][c];
  return sizes;
}

namespace {

// Descent over exchanges of the clusters of two GPUs: in one layer, or from it to the last one where the two share a
// node (all later transitions then cost what they did). The unevenness is the sum over GPUs of |experts - target|.
class Equalizer {
 public:
  Equalizer(const Chain& chain, Positions gpu_of, int target)
      : chain_(chain), gpu_of_(std::move(gpu_of)), excess_(gpu_sizes(chain, gpu_of_)) {
    for (int& e : excess_) e -= target;
  }
  [[nodiscard]] int unevenness() const {
    return std::accumulate(excess_.begin(), excess_.end(), 0, [](int sum, int e) { return sum + std::abs(e); });
  }
  [[nodiscard]] const Positions& positions() const { return gpu_of_; }

  // The exchange that lowers the unevenness at the least cost per expert moved, or two that hand experts on over a
  // third GPU; false where none lowers it.
  bool even_out() {
    double best = std::numeric_limits<double>::infinity();
    Move chosen{};
    for_each_move([&](const Move& move, int gain) {
      if (gain <= 0) return false;
      const double price = change_of_cost(move) / gain;
      if (price < best) {
        best = price;
        chosen = move;
      }
      return false;
    });
    if (chosen.h != chosen.g) {
      apply(chosen);
      return true;
    }
    for (int g = 0; g < chain_.shape.gpus; ++g)
      for (int h = 0; h < chain_.shape.gpus; ++h)
        if (excess_[at(g)] > 0 && excess_[at(h)] < 0)
          for (int k = 0; k < chain_.shape.gpus; ++k)
            if (k != g && k != h && hand_on(g, k, h)) return true;
    return false;
  }

  // Exchanges that keep the unevenness and lower the cost, alone or in pairs, until there are none.
  void cheapen() {
    for (bool changed = true; changed;) {
      changed = false;
      for_each_move([&](const Move& move, int gain) {
        if (gain < 0 || change_of_cost(move) >= -1e-9 * scale_) return false;
        apply(move);
        return changed = true;
      });
      for (int g = 0; g < chain_.shape.gpus && !changed; ++g)
        for (int h = g + 1; h < chain_.shape.gpus && !changed; ++h) changed = exchange_pair(g, h);
    }
  }

 private:
  struct Move {
    int layer = 0;
    bool onward = false;
    int g = 0;
    int h = 0;
  };
  struct Offer {
    Move move;
    double change = std::numeric_limits<double>::infinity();
  };
  // The cheapest exchange of g and h for every number of experts that it moves from h to g.
  std::map<int, Offer> offers(int g, int h) {
    std::map<int, Offer> cheapest;
    for (const bool onward : {false, true}) {
      if (onward && chain_.shape.node_of(g) != chain_.shape.node_of(h)) continue;
      for (int l = 0; l < chain_.layers(); ++l) {
        const std::vector<int> size = moved_sizes(l, onward);
        const Move move{l, onward, g, h};
        const double change = change_of_cost(move);
        Offer& offer = cheapest[size[at(h)] - size[at(g)]];
        if (change < offer.change) offer = {move, change};
      }
    }
    return cheapest;
  }

  // Two exchanges between g and h of which one moves as many experts forth as the other moves back. Adjacent layers
  // share a transition, so what counts is the cost afterwards.
  bool exchange_pair(int g, int h) {
    const std::map<int, Offer> cheapest = offers(g, h);
    for (const auto& [d, offer] : cheapest) {
      const auto back = cheapest.find(-d);
      if (d <= 0 || back == cheapest.end() || offer.change + back->second.change >= -1e-9 * scale_) continue;
      const std::pair before{unevenness(), chain_cost(chain_, gpu_of_) * (1 - 1e-9)};
      apply(offer.move);
      apply(back->second.move);
      if (unevenness() <= before.first && chain_cost(chain_, gpu_of_) < before.second) return true;
      apply(back->second.move);
      apply(offer.move);
    }
    return false;
  }

  // Experts from g to h by way of k; kept where the unevenness falls. A first exchange may change what the second
  // moves.
  bool hand_on(int g, int k, int h) {
    const int before = unevenness();
    for (const bool onward : {false, true}) {
      if (onward && chain_.shape.node_of(g) != chain_.shape.node_of(k)) continue;
      for (int l = 0; l < chain_.layers(); ++l) {
        const std::vector<int> size = moved_sizes(l, onward);
        if (size[at(g)] <= size[at(k)]) continue;  // g has to give
        const Move first{l, onward, g, k};
        apply(first);
        for (const auto& [d, second] : offers(k, h)) {
          if (d >= 0) continue;
          apply(second.move);
          if (unevenness() < before) return true;
          apply(second.move);
        }
        apply(first);
      }
    }
    return false;
  }

  // Calls visit(move, fall of the unevenness), which returns whether it made the move.
  template <class Visit>
  void for_each_move(Visit&& visit) {
    for (const bool onward : {false, true})
      for (int l = 0; l < chain_.layers(); ++l) {
        std::vector<int> size = moved_sizes(l, onward);
        for (int g = 0; g < chain_.shape.gpus; ++g)
          for (int h = g + 1; h < chain_.shape.gpus; ++h) {
            if (onward && chain_.shape.node_of(g) != chain_.shape.node_of(h)) continue;
            const int d = size[at(h)] - size[at(g)];
            const int gain = std::abs(excess_[at(g)]) + std::abs(excess_[at(h)]) - std::abs(excess_[at(g)] + d) -
                             std::abs(excess_[at(h)] - d);
            if (visit(Move{l, onward, g, h}, gain)) size = moved_sizes(l, onward);
          }
      }
  }
  // Experts of each GPU in the layers that an exchange touches.
  [[nodiscard]] std::vector<int> moved_sizes(int layer, bool onward) const {
    std::vector<int> size(excess_.size());
    for (std::size_t l = at(layer); l < (onward ? gpu_of_.size() : at(layer) + 1); ++l)
      for (std::size_t c = 0; c < size.size(); ++c) size[at(gpu_of_[l][c])] += chain_.size[l][c];
    return size;
  }
  [[nodiscard]] double cost_near(const Move& move) const {
    const auto step = [&](int l) {
      return l < 0 || l + 1 >= chain_.layers() ? 0 : step_cost(chain_, at(l), gpu_of_[at(l)], gpu_of_[at(l + 1)]);
    };
    return step(move.layer - 1) + (move.onward ? 0 : step(move.layer));
  }
  double change_of_cost(const Move& move) {
    const double before = cost_near(move);
    scale_ = std::max(scale_, before);
    exchange(move);
    const double after = cost_near(move);
    exchange(move);
    return after - before;
  }
  void exchange(const Move& move) {
    const std::size_t last = move.onward ? gpu_of_.size() : at(move.layer) + 1;
    for (std::size_t l = at(move.layer); l < last; ++l)
      for (int& place : gpu_of_[l]) place = place == move.g ? move.h : place == move.h ? move.g : place;
  }
  void apply(const Move& move) {
    const std::vector<int> before = gpu_sizes(chain_, gpu_of_);
    exchange(move);
    const std::vector<int> after = gpu_sizes(chain_, gpu_of_);
    for (std::size_t g = 0; g < excess_.size(); ++g) excess_[g] += after[g] - before[g];
  }

  const Chain& chain_;
  Positions gpu_of_;
  std::vector<int> excess_;  // [gpus] experts above the target
  double scale_ = 0;         // the largest cost seen, for what counts as a gain
};

}  // namespace

std::optional<Positions> equalize_sizes(const Chain& chain, Positions start) {
  const std::vector<int> sizes = gpu_sizes(chain, start);
  const int total = std::accumulate(sizes.begin(), sizes.end(), 0);
  if (total % chain.shape.gpus != 0) return std::nullopt;
  Equalizer equalizer(chain, std::move(start), total / chain.shape.gpus);
  while (equalizer.unevenness() > 0)
    if (!equalizer.even_out()) return std::nullopt;
  equalizer.cheapen();
  return equalizer.positions();
}

}  // namespace moesim::placement
