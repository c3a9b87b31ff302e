// Under mpirun: the ranks find their places, meet by ids and bring their marks together, as they do for NCCL.
#include <cstdio>
#include <cstring>
#include <memory>

#include "backend/cuda/process_rank.hpp"
#include "backend/executor.hpp"
#include "backend/host/processes.hpp"

using namespace moesim;
using namespace moesim::backend;

namespace {

int failures = 0;
void check(bool good, const char* what) {
  if (good) return;
  ++failures;
  std::fprintf(stderr, "wrong: %s\n", what);
}

constexpr double patience = 30;

void meet(Transport& transport) {
  const int me = transport.rank().value();
  const int ranks = transport.ranks();
  std::vector<Rank> all;
  std::vector<Rank> half;
  for (int r = 0; r < ranks; ++r) {
    all.emplace_back(r);
    if (r % 2 == me % 2) half.emplace_back(r);
  }
  const auto make = [&] {
    gpu::MeetingId id(128, static_cast<char>(me));  // as long as NCCL's
    id[7] = '\0';
    return id;
  };
  check(gpu::meet_over(transport, all, make, patience)[0] == 0, "the id of all ranks is rank 0's");
  const gpu::MeetingId id = gpu::meet_over(transport, half, make, patience);
  check(id.size() == 128 && id[0] == me % 2 && id[7] == '\0', "the id of a group is its first member's");
}

void places(Transport& transport) {
  check(place_on_computer(transport, patience) == transport.rank().value(), "all ranks are on this computer");
  check(transport.neighbours() == transport.ranks(), "all ranks are on this computer");
}

void refusals(Transport& transport) {
  std::string why;
  try {
    agree(transport, patience, [&] {
      if (transport.rank() == Rank(1)) throw Refused("no room");
    });
  } catch (const Refused& e) {
    why = e.what();
  }
  check(why == "no room", "what one rank refuses, all refuse");
  agree(transport, patience, [] {});
}

void marks(Transport& transport) {
  const auto me = static_cast<Nanoseconds>(transport.rank().value());
  const std::vector<Marks> all = gather_marks(transport, {{10 * me, 10 * me + 1, 10 * me + 2}, {}}, patience);
  check(all.size() == static_cast<std::size_t>(transport.ranks()), "marks of every rank");
  for (std::size_t r = 0; r < all.size(); ++r) {
    const bool known = transport.rank() == Rank(0) || r == transport.rank().index();
    check(all[r].size() == 2 && all[r][1].end < 0, "an op that the rank takes no part in");
    check(all[r][0].end == (known ? 10 * static_cast<Nanoseconds>(r) + 2 : -1), "the marks are each rank's own");
  }
}

}  // namespace

int main() {
  constexpr int skipped = 77;
  std::unique_ptr<Transport> transport;
  try {
    transport = mpi_transport();
  } catch (const Refused& e) {
    std::printf("skipped: %s\n", e.what());
    return skipped;
  }
  try {
    meet(*transport);
    places(*transport);
    refusals(*transport);
    marks(*transport);
  } catch (const std::exception& e) {
    std::fprintf(stderr, "rank %d: %s\n", transport->rank().value(), e.what());
    transport->abort(1);
  }
  return failures == 0 ? 0 : 1;
}
