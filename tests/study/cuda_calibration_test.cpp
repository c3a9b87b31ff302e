// Calibration of a GPU without a GPU: a source of probes that obeys the models with known numbers, which come back in
// the fit.
#include "study/cuda_calibration.hpp"

#include <doctest/doctest.h>
#include <fmt/format.h>
#include <unistd.h>

#include <cmath>
#include <filesystem>
#include <numeric>

#include "backend/executor.hpp"
#include "models/cost/device_costs.hpp"
#include "models/cost/expert_model.hpp"
#include "models/cost/fitted.hpp"
#include "models/fit/calibrate.hpp"
#include "models/fit/group.hpp"
#include "models/hardware/machine.hpp"
#include "study/runner.hpp"
#include "support/files.hpp"

using namespace moesim;
using namespace moesim::study;
using namespace moesim::backend;
using cost::DeviceCost;
using cost::Line;

namespace {

namespace fs = std::filesystem;

const hardware::MachineSpec& h200() {
  static const hardware::MachineSpec machine = hardware::load_machine("h200_sxm");
  return machine;
}

cost::TileParameters tiles() {
  cost::TileParameters p = cost::from_map(cost::tile_fields(), {});
  p.launch_us = 2;
  p.matrix_efficiency = 0.7;
  p.memory_efficiency = 0.92;
  return p;
}
cost::ExpertParameters experts() {
  cost::ExpertParameters p = cost::from_map(cost::expert_fields(), {});
  p.tiles = cost::from_map(cost::expert_tile_fields(), {});
  p.tiles.launch_us = 11;
  p.tiles.matrix_efficiency = 0.6;
  return p;
}
cost::CollectiveParameters collectives() {
  cost::CollectiveParameters p = cost::from_map(cost::collective_fields(), {});
  p.ring_us = 8;
  p.large_rate = 0.8;
  return p;
}
Line line(DeviceCost c) {
  switch (c) {
    case DeviceCost::issue:
      return {0.8, 2.5};
    case DeviceCost::kernels:
      return {6, 1.2};
    case DeviceCost::sync:
      return {11, 21};
    case DeviceCost::to_device:
      return {1.5, 18};
    case DeviceCost::to_host:
      return {1.4, 19};
    case DeviceCost::copy:
      return {2.1, 0.23};
    case DeviceCost::stream:
      return {2.6, 0.25};
  }
  return {};
}

// An H200 that obeys the models exactly.
class LawfulGpu final : public ProbeSource {
 public:
  explicit LawfulGpu(int gpus, std::string name = "NVIDIA H200") : gpus_(gpus), name_(std::move(name)) {}
  [[nodiscard]] std::string gpu() const override { return name_; }
  [[nodiscard]] int gpus() const override { return gpus_; }
  [[nodiscard]] std::string versions() const override { return "CUDA 13.0, cuBLAS 13.1.0, NCCL 2.28.9"; }
  ProbeTime measure(const Probe& probe) override {
    ++measured;
    const double us = std::visit(*this, probe);
    return {us, us, us};
  }

  double operator()(const GemmProbe& p) const {
    cost::TileWork w;
    w.rows = cost::RowTiles::dense(p.m);
    w.n = static_cast<double>(p.n);
    w.k = static_cast<double>(p.k);
    w.ragged = p.m % 16 != 0;
    return tiles().launch_us + cost::tile_us(tiles(), cost::TilePolicy::best, device(), w);
  }
  double operator()(const GroupedProbe&) const { return 1; }
  double operator()(const ExpertsProbe& p) const {
    if (p.tokens > largest_tokens) throw Refused("no room");
    cost::ExpertWork w;
    w.rows = cost::RowTiles::grouped(p.rows);
    w.tokens = static_cast<double>(p.tokens);
    // Of the models that are asked about: copies of a token in the whole group.
    for (const auto& [hidden, k] : {std::pair{7168, 8}, std::pair{4096, 2}, std::pair{6144, 4}, std::pair{5120, 1}})
      if (p.hidden == hidden) w.top_k = k;
    if (p.hidden == 2048) w.top_k = p.inter == 768 ? 8 : 6;
    w.experts = static_cast<double>(p.rows.size());
    w.hidden = static_cast<double>(p.hidden);
    w.inter = static_cast<double>(p.inter);
    return cost::expert_us(experts(), cost::TilePolicy::best_large, device(), w);
  }
  double operator()(const StreamProbe& p) const {
    return cost::line_us(line(DeviceCost::stream), work_of(p).bytes * 1e-6);
  }
  double operator()(const CopyProbe& p) const {
    const DeviceCost c = p.kind == CopyProbe::Kind::device      ? DeviceCost::copy
                         : p.kind == CopyProbe::Kind::to_device ? DeviceCost::to_device
                                                                : DeviceCost::to_host;
    return cost::line_us(line(c), work_of(p).bytes * 1e-6);
  }
  double operator()(const LaunchProbe& p) const {
    const auto n = static_cast<double>(p.count);
    if (p.kind == LaunchProbe::Kind::sync) return cost::line_us(line(DeviceCost::sync), n * 1e-6);
    return cost::line_us(line(p.kind == LaunchProbe::Kind::issue ? DeviceCost::issue : DeviceCost::kernels), n);
  }
  double operator()(const CollectiveProbe& p) const {
    const cost::CollectiveKind kind = p.kind == Collective::Kind::all_gather_v ? cost::CollectiveKind::all_gather
                                      : p.kind == Collective::Kind::reduce_scatter_v
                                          ? cost::CollectiveKind::reduce_scatter
                                      : p.kind == Collective::Kind::all_reduce ? cost::CollectiveKind::all_reduce
                                                                               : cost::CollectiveKind::all_to_all;
    return cost::collective_us(collectives(), fit::fabric_of(h200()), {kind, p.gpus, 1, static_cast<double>(p.bytes)});
  }

  int measured = 0;
  std::int64_t largest_tokens = 1 << 20;

 private:
  static cost::Device device() { return cost::device_of(h200().gpu, Math::bf16); }
  int gpus_;
  std::string name_;
};

struct Folder {
  Folder() : path(fs::temp_directory_path() / fmt::format("moesim_cuda_calibration_{}", getpid())) {}
  ~Folder() { fs::remove_all(path); }
  fs::path path;
};

}  // namespace

TEST_CASE("known numbers come back in the fit, and predict what they were measured on") {
  const Folder folder;
  LawfulGpu gpu(4);
  const CudaCalibration c = calibrate_cuda(gpu, {"", (folder.path / "samples").string(), {}});
  CHECK(c.fits.machine == "h200_sxm");
  CHECK(c.left_out.empty());
  CHECK(gpu.measured == static_cast<int>(cuda_probe_list(4).size()));

  for (const DeviceCost each : cost::all_device_costs) {
    const cost::FitEntry* e = cost::find_device_cost(c.fits, each);
    REQUIRE(e != nullptr);
    CAPTURE(e->dtype);
    CHECK(cost::line_of(*e, each).fixed_us == doctest::Approx(line(each).fixed_us).epsilon(0.01));
    CHECK(cost::line_of(*e, each).each_us == doctest::Approx(line(each).each_us).epsilon(0.01));
    CHECK(e->find("all")->p90 < 0.01);
  }
  const cost::FitEntry* gemm = cost::find_entry(c.fits, "gemm", "bfloat16");
  REQUIRE(gemm != nullptr);
  CHECK(gemm->library == "cublas 13.1.0");
  CHECK(gemm->parameters.at("launch_us") == doctest::Approx(2).epsilon(0.05));
  CHECK(gemm->parameters.at("matrix_efficiency") == doctest::Approx(0.7).epsilon(0.03));
  CHECK(gemm->parameters.at("memory_efficiency") == doctest::Approx(0.92).epsilon(0.03));
  CHECK(gemm->find("all")->p90 < 0.02);
  const cost::FitEntry* grouped = cost::find_entry(c.fits, "moe_kernel", "bfloat16");
  REQUIRE(grouped != nullptr);
  CHECK(grouped->variant == "best_large");
  CHECK(grouped->parameters.at("launch_us") == doctest::Approx(11).epsilon(0.05));
  CHECK(grouped->parameters.at("matrix_efficiency") == doctest::Approx(0.6).epsilon(0.03));
  const cost::FitEntry* nccl = cost::find_entry(c.fits, "nccl", "");
  REQUIRE(nccl != nullptr);
  CHECK(nccl->library == "nccl 2.28.9");
  CHECK(nccl->holdout == "count");
  CHECK(nccl->find("all")->p90 < 0.05);

  // The raw rows are kept, and fit to the same file again.
  for (const char* name : {"gemm", "moe_kernel", "nccl", "device"})
    CHECK(fs::exists(folder.path / "samples" / fmt::format("{}.csv", name)));
  fit::CalibrationOptions again;
  again.files = {(folder.path / "samples/device.csv").string()};
  again.schema = fit::Schema::device;
  again.holdout = fit::Holdout::size;
  CHECK(fit::calibrate(again).file.entries.size() == cost::all_device_costs.size());

  // A scenario that runs on the file takes launches, waits, memory and links from it.
  const std::string path = (folder.path / "this.fit.toml").string();
  cost::write_fit_file(c.fits, path);
  Scenario s = parse_scenario(R"(
name = "small"
[model]
name = "mixtral-8x7b"
layers = 1
activations = "bf16"
[cluster]
machine = "h200_sxm"
gpus_per_node = 4
calibration = ")" + path + R"("
[workload]
phase = "prefill"
sequences = 4
sequence_length = 64
[routing]
law = "uniform"
[[strategy]]
kind = "expert_parallel"
)",
                              "small.toml");
  const hardware::MachineSpec m = resolved_machine(s);
  CHECK(to_microseconds(m.gpu.launch) == doctest::Approx(2.5).epsilon(0.01));
  CHECK(to_microseconds(m.gpu.kernel_floor) == doctest::Approx(1.2).epsilon(0.01));
  CHECK(to_microseconds(m.gpu.host_sync) == doctest::Approx(11).epsilon(0.01));
  CHECK(m.gpu.memory_efficiency == doctest::Approx(1e12 / 0.25 / 4.8e12).epsilon(0.01));
  CHECK(m.host_link.value() == doctest::Approx(1e12 / 19).epsilon(0.01));  // the slower way
  CHECK(m.sources.at("gpu.launch").find("calibrate --backend cuda") != std::string::npos);
  s.cluster.calibration = "none";
  CHECK(to_microseconds(resolved_machine(s).gpu.launch) == doctest::Approx(6));
  // 100 MB streamed: 2.6 us + 0.25 us / MB; a transferred file has no say about another machine's launches.
  const auto kernels = cost::make_fitted(h200().gpu, c.fits);
  CHECK(to_microseconds(kernels->streaming(Bytes(100'000'000), Flops(0)).duration) ==
        doctest::Approx(27.6).epsilon(0.01));
  const cost::FitFile moved =
      cost::transfer(c.fits, h200().gpu, hardware::load_machine("h100_sxm").gpu, "h100_sxm", {});
  CHECK(cost::find_device_cost(moved, DeviceCost::issue) == nullptr);
}

TEST_CASE("one GPU: no collectives; probes without room are left out by name; an interrupt fits what there is") {
  for (const CalibrationProbe& p : cuda_probe_list(1)) CHECK(p.schema != fit::Schema::nccl);
  LawfulGpu gpu(1);
  gpu.largest_tokens = 2048;
  int told = 0;
  const CudaCalibration c = calibrate_cuda(gpu, {"", "", [&](double share, const std::string& what) {
                                                   CHECK(!what.empty());
                                                   CHECK(share > 0);
                                                   return ++told < 330;
                                                 }});
  CHECK(told == 330);
  CHECK(cost::find_entry(c.fits, "nccl", "") == nullptr);
  CHECK(cost::find_device_cost(c.fits, DeviceCost::stream) != nullptr);
  CHECK(cost::find_entry(c.fits, "gemm", "bfloat16") != nullptr);
  REQUIRE(!c.left_out.empty());
  CHECK(c.left_out.front().find("8 experts 4096x14336 gated, 16384 rows of 8192 tokens bf16: no room") == 0);
}

TEST_CASE("refused: a GPU without a machine file, and a measurement that has hardly begun") {
  LawfulGpu other(1, "NVIDIA GT 710");
  CHECK_THROWS_WITH_AS(calibrate_cuda(other, {}), doctest::Contains("no machine file is of 'NVIDIA GT 710'"),
                       InputError);
  LawfulGpu gpu(1);
  CHECK_THROWS_WITH_AS(calibrate_cuda(gpu, {"", "", [](double, const std::string&) { return false; }}),
                       doctest::Contains("too few probes"), InputError);
}
