#include "study/host_calibration.hpp"

#include <fmt/format.h>

#include <Eigen/Core>
#include <algorithm>
#include <cmath>
#include <map>

#include "models/cost/host_model.hpp"
#include "models/fit/calibrate.hpp"
#include "models/fit/group_builder.hpp"
#include "sim/engine.hpp"
#include "sim/op_cost.hpp"
#include "study/calibration.hpp"
#include "study/host_probes.hpp"

namespace moesim::study {
namespace {

using cost::Amounts;
using cost::HostKernel;

constexpr int ranks = 4;
constexpr int fewest_probes = 12;

std::string library() {
  return fmt::format("Eigen {}.{}.{}, compiler {}", EIGEN_WORLD_VERSION, EIGEN_MAJOR_VERSION, EIGEN_MINOR_VERSION,
                     __VERSION__);
}

// Adds up the amounts of what the simulator asks a model about, whatever the answer.
class Listener final : public cost::KernelModel {
 public:
  explicit Listener(const Gpu& gpu) : roofline_(cost::make_roofline(gpu)) {}
  [[nodiscard]] cost::KernelCost gemm(const cost::GemmShape& s) const override {
    hear(HostKernel::product, cost::amounts(s));
    return roofline_->gemm(s);
  }
  [[nodiscard]] cost::KernelCost grouped_gemm(const cost::GroupedShape& s) const override {
    hear(HostKernel::product, cost::amounts(s));
    return roofline_->grouped_gemm(s);
  }
  [[nodiscard]] cost::KernelCost attention(const cost::AttentionShape& s) const override {
    hear(HostKernel::attention, cost::amounts(s));
    return roofline_->attention(s);
  }
  [[nodiscard]] cost::KernelCost streaming(Bytes bytes, Flops flops) const override {
    if (bytes.value() > 0) hear(HostKernel::streaming, cost::amounts(bytes));
    return roofline_->streaming(bytes, flops);
  }

  mutable HostKernel kernel = HostKernel::streaming;
  mutable Amounts sum{};

 private:
  void hear(HostKernel k, const Amounts& a) const {
    kernel = k;
    for (std::size_t i = 0; i < a.size(); ++i) sum[i] += a[i];
  }
  std::unique_ptr<cost::KernelModel> roofline_;
};

// How long the simulator says that each span's own work takes.
std::vector<double> simulated_us(const Plan& plan, const hardware::MachineSpec& machine) {
  const Cluster cluster = hardware::make_cluster(machine, {1, ranks, {}});
  sim::SimulationOptions options;
  options.fidelity.kind = sim::Fidelity::Kind::exact;
  const Timeline t = sim::simulate(plan, cluster, *cost::make_roofline(cluster.gpu), options);
  std::vector<double> out;
  for (const Span& s : t.spans) out.push_back(to_microseconds(s.end - s.start));
  return out;
}

// Rows of all probes by kernel.
class Rows {
 public:
  explicit Rows(const hardware::MachineSpec& machine)
      : machine_(machine), cluster_(hardware::make_cluster(machine, {1, ranks, {}})) {
    for (const HostKernel k : cost::all_host_kernels) builders_[k].group.entry.variant = cost::to_string(k);
  }

  [[nodiscard]] const Cluster& cluster() const { return cluster_; }

  void add(const Probe& probe, const Timeline& measured) {
    // Ranks that did the same count once, with their median.
    std::map<std::pair<HostKernel, Amounts>, std::vector<double>> times;
    std::map<std::pair<HostKernel, Amounts>, double> roofline;
    const Listener listener(cluster_.gpu);
    const sim::OpCosts costs(probe.plan, cluster_, listener);
    // A transfer's time is linear in its three costs: the simulator at four points gives the amounts.
    constexpr double step = 0.1;  // us
    constexpr double pace = 200;  // us per 10^6 bytes
    const std::vector<double> base = simulated_us(probe.plan, with_transfers(machine_, 0, 0, pace));
    const std::vector<double> launch = simulated_us(probe.plan, with_transfers(machine_, step, 0, pace));
    const std::vector<double> message = simulated_us(probe.plan, with_transfers(machine_, 0, step, pace));
    for (std::size_t i = 0; i < measured.spans.size(); ++i) {
      const Span& s = measured.spans[i];
      const Op& op = probe.plan.op(s.op);
      const double us = to_microseconds(s.end - s.start);
      if (std::holds_alternative<HostSync>(op.work) || us <= 0) continue;
      HostKernel kernel = HostKernel::transfer;
      Amounts amounts{};
      double roofline_us = base[i];
      if (std::holds_alternative<Collective>(op.work)) {
        if (base[i] <= 0) continue;
        amounts = {(launch[i] - base[i]) / step, std::max(0.0, (message[i] - base[i]) / step), base[i] / pace};
      } else {
        listener.sum = {};
        roofline_us = to_microseconds(costs(op, s.rank).device());
        kernel = listener.kernel;
        amounts = listener.sum;
        if (amounts[0] == 0) continue;
      }
      times[{kernel, amounts}].push_back(us);
      roofline[{kernel, amounts}] = roofline_us;
    }
    for (auto& [key, us] : times) {
      std::ranges::sort(us);
      push(key.first, key.second, us[us.size() / 2], roofline[key], probe.name);
    }
  }

  cost::FitFile fit(const HostCalibrationOptions& options, int probes) {
    if (probes < fewest_probes)
      throw InputError({}, fmt::format("{} plans were measured: too few to fit and to judge", probes),
                       fmt::format("{} is the least", fewest_probes));
    cost::FitFile out{machine_.id, {}};
    for (const HostKernel kernel : cost::all_host_kernels) {
      fit::Group& g = builders_[kernel].group;
      const auto amounts = std::make_shared<std::vector<Amounts>>(amounts_[kernel]);
      for (const cost::HostTerm& t : cost::host_terms(kernel)) {
        g.names.emplace_back(t.name);
        g.parameters.push_back({t.prior, t.prior, 2.0, t.prior * 1e-4, t.prior * 1e4});
      }
      g.variants = {std::string(cost::to_string(kernel))};
      g.log_model = [amounts](std::span<const double> theta, std::size_t, std::span<const std::size_t> which,
                              std::span<double> result) {
        for (std::size_t i = 0; i < which.size(); ++i)
          result[i] = std::log(std::max(1e-6, cost::host_us(theta, (*amounts)[which[i]])));
      };
      g.entry.schema = cost::host_schema;
      g.entry.library = library();
      g.entry.dtype = to_string(options.format);
      g.entry.gpu = this_processor();
      g.entry.source =
          fmt::format("moesim calibrate --backend host: {} plans, processor time, fastest of {} runs of every op",
                      probes, options.repeats);
      g.entry.holdout = "shape";
      fit::fit_all(g, most_rows);
      g.entry.accuracy = fit::accuracy(g, fit::hold_out(g, fit::Holdout::shape, most_rows));
      out.entries.push_back(g.entry);
    }
    return out;
  }

 private:
  static constexpr int most_rows = 2000;

  void push(HostKernel kernel, const Amounts& a, double us, double roofline_us, const std::string& probe) {
    fit::Row row;
    row.us = us;
    row.shape = probe;
    row.regime = cost::host_regime(us);
    row.roofline_us = roofline_us;
    for (std::size_t i = 0; i < a.size(); ++i) row.coordinates[i] = std::log2(1e-3 + a[i]);
    fit::Builder& b = builders_[kernel];
    b.add(std::move(row));
    const auto terms = cost::host_terms(kernel);
    for (std::size_t i = 0; i < terms.size(); ++i) b.range(terms[i].name, a[i]);
    amounts_[kernel].push_back(a);
  }

  hardware::MachineSpec machine_;
  Cluster cluster_;
  std::map<HostKernel, fit::Builder> builders_;
  std::map<HostKernel, std::vector<Amounts>> amounts_;
};

}  // namespace

cost::FitFile calibrate_host(const backend::Executor& executor, const HostCalibrationOptions& options) {
  Rows rows(hardware::load_machine("host"));
  backend::RunOptions measurement;
  measurement.mode = backend::RunOptions::Mode::one_at_a_time;
  measurement.statistic = backend::RunOptions::Statistic::minimum;
  measurement.repeats = options.repeats;
  int done = 0;
  while (done < options.probes) {
    const Probe probe = make_probe(rows.cluster(), options.format, options.seed, done);
    rows.add(probe, executor.run(probe.plan, {*probe.routing}, measurement).timeline);
    ++done;
    if (options.progress && !options.progress(done / static_cast<double>(options.probes))) break;
  }
  return rows.fit(options, done);
}

}  // namespace moesim::study
