#include "backend/probe.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <numeric>
#include <string_view>

#include "plan/names.hpp"

namespace moesim::backend {
namespace {

constexpr std::array<std::string_view, 9> stream_names{"permute", "unpermute", "combine", "gate",    "activation",
                                                       "gated",   "reduce",    "norm",    "quantize"};
constexpr std::array<std::string_view, 3> copy_names{"device copy", "host to device", "device to host"};
constexpr std::array<std::string_view, 3> launch_names{"launches", "empty kernels", "host waits, bytes"};

double total(const std::vector<std::int32_t>& rows) {
  return static_cast<double>(std::accumulate(rows.begin(), rows.end(), std::int64_t{0}));
}
double used(const std::vector<std::int32_t>& rows) {
  return static_cast<double>(std::count_if(rows.begin(), rows.end(), [](std::int32_t m) { return m > 0; }));
}
double size_of(DType t) { return bits(t) / 8.0; }

struct Work {
  ProbeWork operator()(const GemmProbe& p) const {
    const auto m = static_cast<double>(p.m);
    const auto n = static_cast<double>(p.n);
    const auto k = static_cast<double>(p.k);
    return {2 * m * n * k, size_of(p.dtype) * (m * k + k * n + m * n)};
  }
  ProbeWork operator()(const GroupedProbe& p) const {
    const double m = total(p.rows);
    const auto n = static_cast<double>(p.n);
    const auto k = static_cast<double>(p.k);
    return {2 * m * n * k, size_of(p.dtype) * (m * k + used(p.rows) * k * n + m * n)};
  }
  ProbeWork operator()(const ExpertsProbe& p) const {
    const double m = total(p.rows);
    const auto h = static_cast<double>(p.hidden);
    const auto i = static_cast<double>(p.inter);
    const double matrices = p.gated ? 3 : 2;
    return {2 * m * matrices * h * i,
            size_of(p.dtype) * (used(p.rows) * matrices * h * i + 2 * static_cast<double>(p.tokens) * h)};
  }
  ProbeWork operator()(const StreamProbe& p) const {
    const auto rows = static_cast<double>(p.rows);
    const auto cols = static_cast<double>(p.cols);
    const double one = rows * cols * size_of(p.dtype);
    const auto maps = [&](double terms) { return rows * (8 + terms * 4); };  // where rows begin, and from where
    switch (p.kind) {
      case StreamProbe::Kind::permute:
        return {0, 2 * one + maps(1)};
      case StreamProbe::Kind::unpermute:
        return {rows * cols, 2 * one + maps(2)};
      case StreamProbe::Kind::combine:
        return {3 * rows * cols, 3 * one + maps(4)};
      case StreamProbe::Kind::gate:
        return {rows * cols, rows * (cols * 4 + 16 * 4)};
      case StreamProbe::Kind::activation:
        return {rows * cols, 2 * one};
      case StreamProbe::Kind::gated:
        return {2 * rows * cols, 3 * one};
      case StreamProbe::Kind::reduce:
        return {3 * rows * cols, 5 * one};
      case StreamProbe::Kind::norm:
        return {4 * rows * cols, 4 * one + cols * size_of(p.dtype)};
      case StreamProbe::Kind::quantize: {
        const std::int64_t blocks = (p.cols + 127) / 128;
        return {2 * rows * cols, one + rows * (cols + 4 * static_cast<double>(blocks))};
      }
    }
    return {};
  }
  ProbeWork operator()(const CopyProbe& p) const {
    return {0, static_cast<double>(p.bytes) * (p.kind == CopyProbe::Kind::device ? 2 : 1)};
  }
  ProbeWork operator()(const LaunchProbe&) const { return {}; }
  ProbeWork operator()(const CollectiveProbe&) const { return {}; }
};

struct Name {
  std::string operator()(const GemmProbe& p) const {
    return fmt::format("gemm {}x{}x{} {}", p.m, p.n, p.k, to_string(p.dtype));
  }
  std::string operator()(const GroupedProbe& p) const {
    return fmt::format("grouped gemm {} groups, {}x{}x{} {}", p.rows.size(), total(p.rows), p.n, p.k,
                       to_string(p.dtype));
  }
  std::string operator()(const ExpertsProbe& p) const {
    return fmt::format("{} experts {}x{}{}, {} rows of {} tokens {}", p.rows.size(), p.hidden, p.inter,
                       p.gated ? " gated" : "", total(p.rows), p.tokens, to_string(p.dtype));
  }
  std::string operator()(const StreamProbe& p) const {
    return fmt::format("{} {}x{} {}", stream_names[static_cast<std::size_t>(p.kind)], p.rows, p.cols,
                       to_string(p.dtype));
  }
  std::string operator()(const CopyProbe& p) const {
    return fmt::format("{} {} B", copy_names[static_cast<std::size_t>(p.kind)], p.bytes);
  }
  std::string operator()(const LaunchProbe& p) const {
    return fmt::format("{} {}", p.count, launch_names[static_cast<std::size_t>(p.kind)]);
  }
  std::string operator()(const CollectiveProbe& p) const {
    return fmt::format("{} {} B, {} GPUs", moesim::name_of(collective_names, p.kind), p.bytes, p.gpus);
  }
};

}  // namespace

ProbeWork work_of(const Probe& probe) { return std::visit(Work{}, probe); }
std::string name_of(const Probe& probe) { return std::visit(Name{}, probe); }

}  // namespace moesim::backend
