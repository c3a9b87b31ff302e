#include "study/collective_bench.hpp"

#include <doctest/doctest.h>

#include "models/cost/fitted.hpp"
#include "moesim/error.hpp"
#include "study/calibration.hpp"
#include "tests/common/cases.hpp"

using namespace moesim;
using namespace moesim::study;

namespace {

constexpr const char* output = R"(# nThread 1 nGpus 4 minBytes 1048576 maxBytes 4194304 step: 2(factor)
#
#                                                              out-of-place                       in-place
#       size         count      type   redop    root     time   algbw   busbw #wrong     time   algbw   busbw #wrong
#        (B)    (elements)                               (us)  (GB/s)  (GB/s)            (us)  (GB/s)  (GB/s)
     1048576        262144     float     sum      -1    20.00   52.43   78.64      0    21.00   49.93   74.90      0
node-3: some library says hello
     4000000       1000000     float     sum      -1    75.00   53.33   80.00      0    76.00   52.63   78.95      0
# Out of bounds values : 0 OK
# Avg bus bandwidth    : 78
)";

std::string fault(const std::string& text) {
  try {
    parse_nccl_tests(text, "mine.txt");
  } catch (const InputError& e) {
    return e.what();
  }
  return {};
}

}  // namespace

TEST_CASE("sizes double from the first to the last") {
  CHECK(parse_sizes("1KiB..4KiB") == std::vector<Bytes>{Bytes(1024), Bytes(2048), Bytes(4096)});
  CHECK(parse_sizes("1 kB..9kB", 3) == std::vector<Bytes>{Bytes(1000), Bytes(3000), Bytes(9000)});
  CHECK(parse_sizes("5 MB") == std::vector<Bytes>{Bytes(5'000'000)});
  for (const char* bad : {"", "..", "4KiB..1KiB", "4KiB..", "4..8", "-1 KiB", "1 KiBs"}) {
    CAPTURE(bad);
    CHECK_THROWS_AS(parse_sizes(bad), InputError);
  }
  CHECK_THROWS_AS(parse_sizes("1KiB..4KiB", 1), InputError);
}

TEST_CASE("collectives go by the names of nccl-tests too") {
  CHECK(parse_collective_kind("alltoall") == Collective::Kind::all_to_all_v);
  CHECK(parse_collective_kind("all_gather") == Collective::Kind::all_gather_v);
  CHECK_THROWS_WITH_AS(parse_collective_kind("all_reduc"), doctest::Contains("all_reduce"), InputError);
}

TEST_CASE("an nccl-tests table gives its out-of-place times") {
  const std::vector<MeasuredRow> rows = parse_nccl_tests(output, "mine.txt");
  REQUIRE(rows.size() == 2);
  CHECK(rows[0].size == Bytes(1048576));
  CHECK(rows[0].us == 20);
  CHECK(rows[1].us == 75);
}

TEST_CASE("what is no table says where") {
  CHECK(fault("").find("mine.txt") != std::string::npos);
  CHECK(fault("hello\n").find("no row") != std::string::npos);
  CHECK(fault("1024 256 float sum -1 20.0\n").find("mine.txt:1:1") != std::string::npos);
  const std::string head = "#  size count type redop root time algbw busbw\n";
  CHECK(fault(head + "1024 256 float sum -1 fast 1 1\n").find("mine.txt:2:23") != std::string::npos);
  CHECK(fault(head + "1024 256 float sum -1 nan 1 1\n").find("'nan'") != std::string::npos);
  CHECK(fault(head + "1024 256 float sum\n").find("4 columns") != std::string::npos);
}

TEST_CASE("predictions stand beside what was measured, size by size") {
  const Cluster cluster = moesim::testing::round_cluster(1, 4);
  CollectiveBench bench;
  bench.kind = Collective::Kind::all_reduce;
  bench.algorithm = Collective::Algorithm::ring;
  bench.measured = parse_nccl_tests(output, "mine.txt");
  bench.sizes = {Bytes(4'000'000), Bytes(8'000'000)};
  const std::vector<CollectiveRow> rows = predict_collective(bench, cluster);
  // 2 x 3/4 x 4 MB at 100 GB/s: 60 us against 75, 20 % too fast. 8 MB were not measured.
  REQUIRE(rows.size() == 1);
  CHECK(to_microseconds(rows[0].time) == doctest::Approx(60));
  CHECK(rows[0].error() == doctest::Approx(-0.2));
  CHECK(rows[0].busbw.value() == doctest::Approx(100e9));
  CHECK(render_collective(bench, rows, cluster).find("-20.0") != std::string::npos);
  bench.zipf = 1;
  CHECK_THROWS_AS(predict_collective(bench, cluster), InputError);
}

TEST_CASE("measured machines: the simulator gives the fitted time, so what `validate` prints is its error") {
  for (const char* name : {"h100_sxm", "a100_80g_sxm", "h200_sxm"}) {
    const hardware::MachineSpec machine = hardware::load_machine(name);
    Scenario scenario;
    const Calibration calibration = find_calibration(scenario, machine);
    REQUIRE(calibration.fits);
    for (const auto& [nodes, gpus] : {std::pair{1, 2}, std::pair{1, 8}, std::pair{2, 8}}) {
      hardware::MachineSpec joined = machine;
      joined.network.kind = hardware::NetworkFabric::Kind::single;
      Cluster cluster = hardware::make_cluster(joined, {nodes, gpus, {}});
      cluster.communication = make_communication(calibration, machine);
      REQUIRE(cluster.communication);
      for (const auto& [kind, measured] :
           {std::pair{Collective::Kind::all_gather_v, cost::CollectiveKind::all_gather},
            std::pair{Collective::Kind::all_reduce, cost::CollectiveKind::all_reduce},
            std::pair{Collective::Kind::all_to_all_v, cost::CollectiveKind::all_to_all}}) {
        CollectiveBench bench;
        bench.kind = kind;
        bench.sizes = parse_sizes("1KiB..512MiB", 8);
        for (const CollectiveRow& row : predict_collective(bench, cluster)) {
          CAPTURE(name);
          CAPTURE(nodes * gpus);
          CAPTURE(to_string(kind));
          CAPTURE(row.size.value());
          const auto fitted =
              cost::predict_collective(cluster.communication->fabric, *calibration.fits,
                                       {measured, nodes * gpus, nodes, static_cast<double>(row.size.value())});
          CHECK(to_microseconds(row.time) == doctest::Approx(fitted->us).epsilon(nodes == 1 ? 0.01 : 0.05));
        }
      }
    }
  }
}

TEST_CASE("fits of NVSwitch nodes are not carried to GPUs on PCIe") {
  const hardware::MachineSpec machine = hardware::load_machine("pcie_box");
  CHECK(make_communication(find_calibration({}, machine), machine) == nullptr);
}
