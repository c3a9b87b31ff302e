// Max-min fair shares of one set of flow classes over links, by water filling.
//
//   level: all classes rise together at the same rate per weight; a link saturates at
//     share_l = (capacity_l - sum of frozen loads * their level) / (sum of unfrozen loads)
//   the link with the least share saturates first and freezes its classes at that level; shares of other links can only
//   grow by it. A class with a cap freezes at cap / weight at the latest.
//   Bertsekas & Gallager, Data Networks (1992), section 6.5.2; load = weight * flows of the class.
//
// Links that saturate at bitwise the same level saturate together, and a link's sums are made level by level, so links
// in the same situation get bitwise the same share whatever their order: ties need no tolerance.
//
// Filling again after flows have left: levels below the lowest level of those that left stay as they are, because no
// link saturated there carried them. With `keep_log` the filling is rewound to that level and only redone from there.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <vector>

namespace moesim::sim {

class WaterFill {
 public:
  // Class c crosses links hops[begin[c] .. begin[c + 1]), at least one. hop_load: how much of its load is on each of
  // them. caps: level at which a class stops rising, infinity = none.
  WaterFill(std::vector<double> capacity, std::vector<std::uint32_t> begin, std::vector<std::uint32_t> hops,
            std::vector<double> load, std::vector<double> hop_load, std::vector<double> caps, bool keep_log);

  // A flow of class c over `links` leaves. What is left of the class's load then; 0 = it was the last.
  void leave(std::uint32_t c, std::span<const std::uint32_t> links, double left);
  // Shares of all classes. False, and shares are of no use, when a link saturates that carries a part of a class.
  [[nodiscard]] bool fill();
  // Shares of the classes at `level` or above; those below keep theirs. Needs keep_log. Returns the position in order()
  // from which classes are new. Classes are wholly on all their links.
  std::size_t refill(double level);

  [[nodiscard]] double level(std::uint32_t c) const { return level_[c]; }
  [[nodiscard]] double cap(std::uint32_t c) const { return caps_[c]; }
  [[nodiscard]] bool gone(std::uint32_t c) const { return gone_[c] != 0; }
  // The classes that are left, by rising level.
  [[nodiscard]] std::span<const std::uint32_t> order() const { return order_; }

  [[nodiscard]] std::size_t classes() const { return level_.size(); }
  [[nodiscard]] std::size_t links() const { return capacity_.size(); }
  [[nodiscard]] double capacity(std::uint32_t l) const { return capacity_[l]; }
  [[nodiscard]] double left(std::uint32_t l) const { return std::max(link_[l].left, 0.0); }  // unused capacity
  // Full, but for rounding: no class may have more of it.
  [[nodiscard]] bool full(std::uint32_t l) const { return link_[l].left <= 1e-9 * capacity_[l]; }
  // After fill(): is it this link that holds the class at its level?
  [[nodiscard]] bool holds(std::uint32_t l, std::uint32_t c) const { return link_[l].level == level_[c]; }
  [[nodiscard]] std::span<const std::uint32_t> hops(std::uint32_t c) const {
    return std::span(hops_).subspan(hop_begin_[c], hop_begin_[c + 1] - hop_begin_[c]);
  }
  [[nodiscard]] std::span<const double> hop_loads(std::uint32_t c) const {
    return std::span(hop_load_).subspan(hop_begin_[c], hop_begin_[c + 1] - hop_begin_[c]);
  }

 private:
  struct Entry {  // of the heap: a lower bound on a link's share
    double share;
    std::uint32_t link;
  };
  struct Change {  // of one link at one level: what it was before
    double level;
    double left;
    double taken;
    std::uint32_t link;
    std::uint32_t frozen;
  };
  struct Link {
    double left = 0;           // capacity that frozen classes leave
    double total = 0;          // load of all classes
    double taken = 0;          // load of frozen ones
    std::uint32_t live = 0;    // classes
    std::uint32_t frozen = 0;  // of them
    double rising = 0;         // load and classes that freeze in this round
    std::uint32_t freezing = 0;
    std::uint32_t round = 0;
    double level = 0;  // at which it saturated, 0 = did not
    [[nodiscard]] double share() const { return left / (total - taken); }
  };

  [[nodiscard]] bool rise(double last);
  void freeze(std::uint32_t c, double level);
  void close_round(double level);
  void push(Entry e);
  Entry pop();

  std::vector<double> capacity_;
  std::vector<std::uint32_t> hop_begin_, hops_;  // class -> links
  struct Use {
    std::uint32_t c;
    std::uint32_t hop;  // in hops_
  };
  std::vector<std::uint32_t> use_begin_;  // link -> classes
  std::vector<Use> uses_;
  std::vector<double> load_, hop_load_, caps_;
  struct Capped {
    double level;
    std::uint32_t c;
  };
  std::vector<Capped> capped_;  // by rising level
  bool keep_log_;

  std::vector<double> level_;
  std::vector<std::uint8_t> gone_, frozen_;  // gone classes count as frozen
  std::vector<Link> link_;
  std::vector<std::uint32_t> order_;
  std::vector<Change> log_;
  std::vector<Entry> heap_;
  std::vector<std::uint32_t> touched_, saturated_;
  std::uint32_t round_ = 0;
};

}  // namespace moesim::sim
