// Ids as types: a Rank is not a Layer, and a physical expert (a replica in a slot) is not a logical one.
#pragma once

#include <compare>
#include <cstddef>
#include <cstdint>
#include <functional>

namespace moesim {

template <class Tag>
class Id {
 public:
  constexpr Id() = default;
  constexpr explicit Id(std::int32_t v) : v_(v) {}
  // From a container index. Containers here hold far fewer than 2^31 items.
  constexpr explicit Id(std::size_t v) : v_(static_cast<std::int32_t>(v)) {}
  [[nodiscard]] constexpr std::int32_t value() const { return v_; }
  [[nodiscard]] constexpr std::size_t index() const { return static_cast<std::size_t>(v_); }
  [[nodiscard]] constexpr bool valid() const { return v_ >= 0; }
  friend constexpr auto operator<=>(Id, Id) = default;

 private:
  std::int32_t v_ = -1;
};

using Rank = Id<struct RankTag>;                      // one GPU of the job, 0 <= rank < world size
using Node = Id<struct NodeTag>;                      // one machine of the cluster
using LinkId = Id<struct LinkTag>;                    // one directed link of a Topology
using Layer = Id<struct LayerTag>;                    // transformer layer, counted over the whole model
using LogicalExpert = Id<struct LogicalExpertTag>;    // an expert of the model, as the router numbers it
using PhysicalExpert = Id<struct PhysicalExpertTag>;  // a slot that holds one (replica of a) logical expert
using OpId = Id<struct OpTag>;
using BufferId = Id<struct BufferTag>;
using TableId = Id<struct TableTag>;
using GroupsId = Id<struct GroupsTag>;        // a partition of ranks into communicators
using PlacementId = Id<struct PlacementTag>;  // an expert placement of a Plan

}  // namespace moesim

template <class Tag>
struct std::hash<moesim::Id<Tag>> {
  std::size_t operator()(moesim::Id<Tag> id) const noexcept { return std::hash<std::int32_t>{}(id.value()); }
};
