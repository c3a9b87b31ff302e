// Items laid end to end on a line of unit stretches (lanes); one item is picked per lane, never the same twice.
//
// An item's length is its inclusion probability pi <= 1; the lengths sum to a whole number of lanes. Two ways to pick,
// both of which include every item with exactly its length:
//   Line   systematic sampling (Madow 1949): the items at v, v + 1, v + 2, ...; distinct, as none is longer than 1.
//   Lanes  a point of each lane at random. An item that straddles lanes j and j + 1, with a in the one and b in the
//          next, is not picked in j + 1 after it was picked in j, and otherwise picked there with b / (1 - a):
//          Deville's systematic sampling, which is ordered pivotal sampling (Chauvet 2012). Items of one lane never
//          meet; differently ordered lanes take turns to make up for it.
#pragma once

#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "models/load/counter_rng.hpp"
#include "moesim/routing.hpp"

namespace moesim::load {

// `order` is the order of items on the line; the sum of inclusion is a whole number.
class Line {
 public:
  // Lengths are rounded to 1 / unit (largest remainders).
  Line(std::span<const double> inclusion, std::int64_t unit, std::span<const std::size_t> order);

  [[nodiscard]] std::int64_t length() const { return end_.empty() ? 0 : end_.back(); }
  [[nodiscard]] std::int64_t unit() const { return unit_; }
  // The item at 0 <= x < length(), and where it begins.
  [[nodiscard]] std::pair<ExpertIndex, std::int64_t> at(std::int64_t x) const {
    std::size_t position = first_at_[static_cast<std::size_t>(x >> shift_)];
    while (end_[position] <= x) ++position;
    return {item_[position], position == 0 ? 0 : end_[position - 1]};
  }

 private:
  std::int64_t unit_;
  int shift_ = 0;
  std::vector<std::int64_t> end_;        // [position]
  std::vector<ExpertIndex> item_;        // [position]
  std::vector<std::uint16_t> first_at_;  // [x >> shift_]: the first position that reaches into this stretch
};

class Lanes {
 public:
  Lanes(std::span<const double> inclusion, std::span<const std::size_t> order);

  // Calls emit(item) for each lane's pick. No branch depends on a draw.
  template <class Emit>
  void pick(Draws& draws, const Emit& emit) const {
    bool taken = false;  // the straddler into this lane, by the lane before
    for (const Lane& lane : lanes_) {
      const std::uint64_t bits = draws.next();
      const std::uint64_t x = (bits & 0xffffffff) * lane.cells;  // Walker's alias method, 32 bits
      const Cell& cell = cells_[lane.first_cell + (x >> 32)];
      const std::uint64_t other = cell.item[static_cast<std::uint32_t>(x) < cell.threshold];
      const bool head = ((bits >> 32) < lane.head_threshold) & !taken;
      taken = (other == lane.tail) & !head;
      emit(static_cast<ExpertIndex>(select(head, lane.head, other)));
    }
  }

 private:
  struct Cell {
    std::uint32_t threshold;  // of 2^32
    ExpertIndex item[2];      // [whether below]: the alias, the cell's own
  };
  struct Lane {
    std::uint32_t first_cell = 0;
    std::uint32_t cells = 0;           // of what is not the straddler from the lane before
    std::uint64_t head_threshold = 0;  // of 2^32: below it, that straddler, unless the lane before took it
    std::uint64_t head = nobody;       // straddles from the lane before
    std::uint64_t tail = nobody;       // straddles into the next lane
  };
  // a ? b : c, which compilers would make a branch that is missed half of the time.
  static constexpr std::uint64_t select(bool a, std::uint64_t b, std::uint64_t c) {
    return c ^ ((b ^ c) & -static_cast<std::uint64_t>(a));
  }
  static constexpr std::uint64_t nobody = ~std::uint64_t{0};
  void add_cells(std::span<const std::pair<ExpertIndex, double>> parts);

  std::vector<Lane> lanes_;
  std::vector<Cell> cells_;
};

}  // namespace moesim::load
