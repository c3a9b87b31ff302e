// all_to_all_v and send_recv. Member i has c_ij rows for member j.
//
// Direct: every pair is one flow of c_ij rows, all at once, as NCCL's grouped send/recv does (ncclAlltoAll too, unless
// symmetric windows are used).
//   t = launch + alpha + (messages - 1) gap + drain of all flows;   busbw = algbw (n - 1) / n   (nccl-tests)
// alpha is one message's, whatever the world's size: sends do not wait for each other. What grows is the gap between
// the messages that one rank issues, tenths of a microsecond (8 against 2 GPUs on one H100 node: 7.5 against 6.4 us).
//
// Hierarchical, two levels: between islands a row travels once to the sender's counterpart there (the member at the
// same index: the same rail), which forwards it over NVLink. DeepEP's normal kernels (github.com/deepseek-ai/DeepEP)
// and, with the levels swapped, Tutel's 2DH (arXiv 2206.03382, section 3.3) and DeepSpeed-MoE (arXiv 2201.05596,
// section 5.2). Forwarding follows arrivals row by row, so both levels run side by side and only the last row of each
// pair is forwarded after everything has arrived. Per NIC the bytes are those of the direct form, in 1/width of the
// messages. With Collective::island_rows a token with experts on several GPUs of a node crosses once; on the way back
// (`returns`) the levels are swapped: the counterpart sums what its neighbours have for the owner, row by row, and
// sends the sums.
#include <algorithm>
#include <stdexcept>

#include "sim/collectives/group.hpp"

namespace moesim::sim {

std::vector<Stage> all_to_all_direct(const Group& group) {
  FlowList flows(group);
  bool crosses = false;
  for (std::size_t i = 0; i < group.size(); ++i)
    for (std::size_t j = 0; j < group.size(); ++j) {
      const Bytes bytes = group.for_member(i, j);
      if (i == j || bytes.value() == 0) continue;
      flows.add(i, j, bytes);
      crosses = crosses || group.crosses(i, j);
    }
  return {std::move(flows).stage(crosses ? group.steps(0, 1) : group.steps(1, 0))};
}

// Bytes that cross between a member and an island, where the plan says that fewer do than it counts.
static Bytes crossing(const Group& group, std::size_t member, std::size_t island, Bytes counted) {
  const Collective& c = group.collective();
  if (!c.island_rows.valid()) return counted;
  const Table& rows = group.plan().table(c.island_rows);
  if (rows.cols() != static_cast<int>(group.islands().size()))
    throw std::logic_error("a collective's island_rows do not fit the cluster");
  return group.bytes(rows.at(group.rank(member).value(), static_cast<int>(island)));
}

std::vector<Stage> all_to_all_hierarchical(const Group& group) {
  const auto& islands = group.islands();
  if (islands.size() == 1) return all_to_all_direct(group);
  const bool returns = group.collective().returns;
  FlowList body(group), edge(group);
  const Bytes row = group.bytes(1);
  for (std::size_t a = 0; a < islands.size(); ++a)
    for (std::size_t index = 0; index < islands[a].size(); ++index) {
      const std::size_t i = islands[a][index];
      for (std::size_t b = 0; b < islands.size(); ++b) {
        const std::size_t counterpart = islands[b][index % islands[b].size()];
        Bytes together;
        for (const std::size_t j : islands[b]) {
          const Bytes bytes = returns ? group.for_member(j, i) : group.for_member(i, j);
          const std::size_t near = a == b ? i : counterpart;
          const Bytes end = a == b ? Bytes() : std::min(bytes, row);
          body.add(returns ? j : near, returns ? near : j, bytes - end);
          edge.add(returns ? j : near, returns ? near : j, end);
          together += bytes;
        }
        if (a == b) continue;
        const Bytes crosses = crossing(group, i, b, together);
        body.add(returns ? counterpart : i, returns ? i : counterpart, crosses);
      }
    }
  Stage far = std::move(body).stage(group.steps(0, 1));
  Stage near = std::move(edge).stage(group.steps(1, 0), 1);
  if (near.flows.empty()) return {std::move(far)};
  if (returns) return {std::move(near), std::move(far)};
  return {std::move(far), std::move(near)};
}

}  // namespace moesim::sim
