#include "study/kernel_bench.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <optional>

#include "backend/executor.hpp"

namespace moesim::study {
namespace {

using backend::CopyProbe;
using backend::GemmProbe;
using backend::GroupedProbe;
using backend::Probe;
using backend::StreamProbe;

constexpr std::int64_t tokens = 16384;
constexpr double memory_aim = 0.8;
constexpr double grouped_aim = 0.9;

struct GroupedCase {
  const char* name;
  std::int64_t groups, rows, n, k;  // rows of each group
};
constexpr GroupedCase grouped_cases[] = {{"Mixtral-8x7B up", 8, 4096, 28672, 4096},
                                         {"Mixtral-8x7B down", 8, 4096, 4096, 14336},
                                         {"DeepSeek-V3 up, 32 experts", 32, 512, 4096, 7168},
                                         {"DeepSeek-V3 down, 32 experts", 32, 512, 7168, 2048}};

std::vector<std::int32_t> balanced(const GroupedCase& c) {
  return std::vector<std::int32_t>(static_cast<std::size_t>(c.groups), static_cast<std::int32_t>(c.rows));
}
// Half of all rows are the first group's.
std::vector<std::int32_t> skewed(const GroupedCase& c) {
  const std::int64_t all = c.groups * c.rows;
  std::vector<std::int32_t> out(static_cast<std::size_t>(c.groups),
                                static_cast<std::int32_t>(all / 2 / (c.groups - 1)));
  out[0] = static_cast<std::int32_t>(all - (c.groups - 1) * out[1]);
  return out;
}

constexpr StreamProbe::Kind streams[] = {
    StreamProbe::Kind::permute, StreamProbe::Kind::unpermute,  StreamProbe::Kind::combine,
    StreamProbe::Kind::gate,    StreamProbe::Kind::activation, StreamProbe::Kind::gated,
    StreamProbe::Kind::reduce,  StreamProbe::Kind::norm,       StreamProbe::Kind::quantize};

std::string rate_text(const KernelRow& r) {
  return r.matrix ? fmt::format("{:.0f} TFLOPS", r.rate * 1e-12) : fmt::format("{:.0f} GB/s", r.rate * 1e-9);
}

}  // namespace

KernelBench bench_kernels(backend::ProbeSource& source,
                          const std::function<bool(double, const std::string&)>& progress) {
  KernelBench out{source.gpu(), source.versions(), 0, 0, {}, {}};
  constexpr double steps = 4 + std::size(streams) + 3 * std::size(grouped_cases);
  int done = 0;
  bool stop = false;
  // nullopt: stopped, or no room.
  const auto measure = [&](const Probe& probe) -> std::optional<backend::ProbeTime> {
    if (stop) return std::nullopt;
    std::optional<backend::ProbeTime> time;
    try {
      time = source.measure(probe);
    } catch (const backend::Refused& e) {
      out.left_out.push_back(fmt::format("{}: {}", backend::name_of(probe), e.what()));
    }
    stop = progress && !progress(++done / steps, backend::name_of(probe));
    return time;
  };
  for (const std::int64_t mebibytes : {64, 256, 1024}) {
    const CopyProbe copy{CopyProbe::Kind::device, mebibytes << 20};
    if (const auto t = measure(copy))
      out.copy_rate = std::max(out.copy_rate, backend::work_of(copy).bytes / t->us * 1e6);
  }
  const GemmProbe large{8192, 8192, 8192, DType::bf16};
  if (const auto t = measure(large)) out.gemm_rate = backend::work_of(large).flops / t->us * 1e6;
  for (const StreamProbe::Kind kind : streams) {
    const StreamProbe probe{kind, tokens, kind == StreamProbe::Kind::gate ? 256 : 4096, DType::bf16};
    const auto t = measure(probe);
    if (!t) continue;
    const double rate = backend::work_of(probe).bytes / t->us * 1e6;
    out.rows.push_back({backend::name_of(probe), *t, rate, false, out.copy_rate > 0 ? rate / out.copy_rate : 0,
                        kind == StreamProbe::Kind::gate ? 0 : memory_aim});
  }
  for (const GroupedCase& c : grouped_cases) {
    const GemmProbe one{c.groups * c.rows, c.n, c.k, DType::bf16};
    const double flops = backend::work_of(one).flops;
    const auto single = measure(one);
    const auto add = [&](const std::string& what, const std::optional<backend::ProbeTime>& t, double aim) {
      if (!t) return;
      out.rows.push_back(
          {fmt::format("{}: {}", c.name, what), *t, flops / t->us * 1e6, true, single ? single->us / t->us : 0, aim});
    };
    add(fmt::format("one product {}x{}x{}", one.m, one.n, one.k), single, 0);
    add(fmt::format("{} balanced groups", c.groups), measure(GroupedProbe{balanced(c), c.n, c.k, DType::bf16}),
        grouped_aim);
    add(fmt::format("{} groups, half the rows in one", c.groups),
        measure(GroupedProbe{skewed(c), c.n, c.k, DType::bf16}), 0);
  }
  return out;
}

std::string render_kernels(const KernelBench& b) {
  std::string out = fmt::format("{} ({})\ncopy on the device {:.0f} GB/s; product of 8192^3 in bf16 {:.0f} TFLOPS\n\n",
                                b.gpu, b.versions, b.copy_rate * 1e-9, b.gemm_rate * 1e-12);
  out += fmt::format("{:<58} {:>10} {:>12} {:>10}  {}\n", "kernel", "us", "rate", "share", "aim");
  for (const KernelRow& r : b.rows)
    out += fmt::format("{:<58} {:>10.1f} {:>12} {:>8.0f} %  {}\n", r.name, r.time.us, rate_text(r), 100 * r.share,
                       r.aim == 0         ? ""
                       : r.share >= r.aim ? fmt::format("{:.0f} %, reached", 100 * r.aim)
                                          : fmt::format("{:.0f} %, missed", 100 * r.aim));
  out += "\nshare: of the copy's rate; of groups: the time of the one product over theirs\n";
  for (const std::string& s : b.left_out) out += fmt::format("left out: {}\n", s);
  return out;
}

std::string kernels_json(const KernelBench& b) {
  nlohmann::ordered_json rows = nlohmann::ordered_json::array();
  for (const KernelRow& r : b.rows)
    rows.push_back({{"kernel", r.name},
                    {"us", r.time.us},
                    {"low_us", r.time.low},
                    {"high_us", r.time.high},
                    {r.matrix ? "flops_per_s" : "bytes_per_s", r.rate},
                    {"share", r.share},
                    {"aim", r.aim}});
  const nlohmann::ordered_json out{
      {"gpu", b.gpu},    {"versions", b.versions}, {"copy_bytes_per_s", b.copy_rate}, {"gemm_flops_per_s", b.gemm_rate},
      {"kernels", rows}, {"left_out", b.left_out}};
  return out.dump(1) + "\n";
}

}  // namespace moesim::study
