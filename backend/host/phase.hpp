// A collective as one rank takes part in it: one or two phases, in which members offer each other pieces of their
// buffers and each takes, or adds up, what is for it. Sums are in member order, so they do not depend on who is late or
// on how the bytes travel.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <utility>
#include <vector>

#include "backend/call.hpp"
#include "backend/host/tensor.hpp"
#include "moesim/plan.hpp"

namespace moesim::backend {

struct Piece {
  std::byte* data = nullptr;  // of a take: where it goes; null when it is only added up
  std::int64_t bytes = 0;
};

struct Sum {
  std::byte* out = nullptr;
  std::int64_t elements = 0;
  DType dtype = DType::f32;
  std::vector<std::pair<std::size_t, std::size_t>> terms;  // (member, which of its pieces)
};

struct Phase {
  std::vector<std::vector<Piece>> offers;  // [member]: for it; the rank itself included
  std::vector<std::vector<Piece>> takes;   // [member]: from it, piece by piece as it offers them
  std::vector<Sum> sums;
};

struct Meeting {
  std::vector<Rank> group;
  std::size_t member = 0;  // the rank's position
  std::vector<Phase> phases;
};

// all_to_all_v, all_gather_v, sparse_all_gather and their like take one phase, all_reduce
// two: a reduce-scatter of equal parts and an all-gather of the sums. Throws Refused where a sparse collective lacks an
// expert.
Meeting meeting_of(const Plan& plan, const Op& op, const CollectiveCall& call, Rank rank);

// Copies and adds up what a phase takes; source(member, piece) is where the piece can be read.
void take(const Phase& phase, const std::function<const std::byte*(std::size_t, std::size_t)>& source);

}  // namespace moesim::backend
