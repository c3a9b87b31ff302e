// Predictions of one collective by size in the shape of an nccl-tests table, beside a measured one where there is one.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "moesim/machine.hpp"
#include "moesim/plan.hpp"
#include "sim/network/network.hpp"

namespace moesim::study {

// "all_to_all", "all_gather", ... and the names of nccl-tests' programs ("alltoall", "sendrecv"). Throws InputError.
Collective::Kind parse_collective_kind(std::string_view name);

// "1KiB..1GiB": sizes from one to the other by factors of `factor`, the last included; or one size. Throws InputError.
std::vector<Bytes> parse_sizes(std::string_view text, int factor = 2);

// Out-of-place times of nccl-tests' output, by size, in its order; lines between '#'s header and trailer.
// Throws InputError: no row, a row without a size or a time.
struct MeasuredRow {
  Bytes size;
  double us = 0;
};
std::vector<MeasuredRow> read_nccl_tests(const std::string& path);
std::vector<MeasuredRow> parse_nccl_tests(std::string_view content, const std::string& name);

struct CollectiveBench {
  Collective::Kind kind = Collective::Kind::all_reduce;
  Collective::Algorithm algorithm = Collective::Algorithm::automatic;
  double zipf = 0;  // all_to_all: destination j gets a part proportional to (j + 1)^-zipf
  std::vector<Bytes> sizes;
  std::vector<MeasuredRow> measured;  // empty = none
  sim::Fidelity fidelity;
};

struct CollectiveRow {
  Bytes size;  // as nccl-tests prints it: rounded down to whole elements for every rank
  Picoseconds time;
  BytesPerSecond algbw, busbw;
  sim::Bracket bracket;
  Picoseconds least;  // no schedule on these links is faster
  std::int64_t flows = 0;
  std::optional<double> measured_us;
  [[nodiscard]] double error() const { return to_microseconds(time) / *measured_us - 1; }
};

// Sizes that were measured, where something was; sizes that the measurement lacks are left out.
std::vector<CollectiveRow> predict_collective(const CollectiveBench& bench, const Cluster& cluster);

std::string render_collective(const CollectiveBench& bench, const std::vector<CollectiveRow>& rows,
                              const Cluster& cluster);
std::string collective_json(const CollectiveBench& bench, const std::vector<CollectiveRow>& rows,
                            const Cluster& cluster);

}  // namespace moesim::study
