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
// messages. That a token with several experts on one node travels once is in the counts, or is not: they do not say
// which rows are equal.
#include <algorithm>

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

std::vector<Stage> all_to_all_hierarchical(const Group& group) {
  const auto& islands = group.islands();
  if (islands.size() == 1) return all_to_all_direct(group);
  FlowList first(group), last(group);
  const Bytes row = group.bytes(1);
  for (std::size_t a = 0; a < islands.size(); ++a)
    for (std::size_t index = 0; index < islands[a].size(); ++index) {
      const std::size_t i = islands[a][index];
      for (std::size_t b = 0; b < islands.size(); ++b) {
        const std::size_t counterpart = islands[b][index % islands[b].size()];
        Bytes together;
        for (const std::size_t j : islands[b]) {
          const Bytes bytes = group.for_member(i, j);
          if (a == b) {
            first.add(i, j, bytes);
            continue;
          }
          together += bytes;
          const Bytes end = std::min(bytes, row);
          first.add(counterpart, j, bytes - end);
          last.add(counterpart, j, end);
        }
        first.add(i, counterpart, together);
      }
    }
  std::vector<Stage> out{std::move(first).stage(group.steps(0, 1))};
  if (Stage forward = std::move(last).stage(group.steps(1, 0), 1); !forward.flows.empty())
    out.push_back(std::move(forward));
  return out;
}

}  // namespace moesim::sim
