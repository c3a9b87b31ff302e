#include "study/cuda_calibration.hpp"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <numeric>
#include <set>

#include "backend/executor.hpp"
#include "models/cost/collective_model.hpp"
#include "models/cost/device_costs.hpp"
#include "models/fit/calibrate.hpp"
#include "models/fit/expert_load.hpp"
#include "models/hardware/machine.hpp"
#include "support/files.hpp"

namespace moesim::study {
namespace {

namespace fs = std::filesystem;
using backend::CollectiveProbe;
using backend::CopyProbe;
using backend::LaunchProbe;
using backend::StreamProbe;
using fit::Schema;

// Columns between gpu, library and time_us.
std::string_view columns(Schema schema) {
  switch (schema) {
    case Schema::gemm:
      return "dtype,m,n,k";
    case Schema::moe_kernel:
      return "kernel_source,dtype,hidden_size,inter_size,topk,num_experts,moe_tp_size,moe_ep_size,distribution,"
             "num_tokens";
    case Schema::nccl:
      return "op,num_gpus,message_bytes";
    case Schema::device:
      return "cost,shape,amount";
    case Schema::deepep:
      break;
  }
  return {};
}

// Widths of attention, of dense and shared experts, and of heads: a smaller and a larger one of each kind.
constexpr std::pair<int, int> matrices[] = {{1024, 2048},  {2048, 2048},  {4096, 1024},  {6144, 4096},  {4096, 4096},
                                            {2112, 7168},  {7168, 2048},  {14336, 4096}, {4096, 14336}, {7168, 7168},
                                            {16384, 2048}, {8192, 28672}, {28672, 4096}, {32000, 4096}};

void add_gemms(std::vector<CalibrationProbe>& out) {
  for (const auto& [n, k] : matrices)
    for (const int m : {1, 8, 32, 64, 128, 256, 512, 1000, 2048, 4096, 8192, 16384})
      out.push_back(
          {Schema::gemm, backend::GemmProbe{m, n, k, DType::bf16}, fmt::format("bfloat16,{},{},{}", m, n, k)});
}

struct Experts {
  std::int64_t hidden, inter, top_k, experts;
};
// Mixtral 8x7B, DeepSeek-V3, Qwen3-30B-A3B, DeepSeek-V2-Lite, DBRX, Llama 4 Scout.
constexpr Experts expert_shapes[] = {{4096, 14336, 2, 8}, {7168, 2048, 8, 256}, {2048, 768, 8, 128},
                                     {2048, 1408, 6, 64}, {6144, 10752, 4, 16}, {5120, 8192, 1, 16}};

void add_experts(std::vector<CalibrationProbe>& out) {
  for (const Experts& e : expert_shapes)
    for (const int ep : {1, 2, 8})
      for (const std::int64_t tokens : {1, 16, 128, 512, 2048, 8192})
        for (const double law : {0.0, 1.01, 1.2}) {
          const fit::ExpertLoadShape shape{tokens, e.top_k, e.experts, ep};
          constexpr std::uint64_t draw = 1000;  // none of those that the model averages over
          std::vector<std::int32_t> rows = law > 0 ? fit::power_law_load(shape, law, draw) : fit::balanced_load(shape);
          if (std::reduce(rows.begin(), rows.end(), std::int64_t{0}) == 0) continue;
          out.push_back({Schema::moe_kernel,
                         backend::ExpertsProbe{std::move(rows), tokens, e.hidden, e.inter, true, DType::bf16},
                         fmt::format("grouped,bfloat16,{},{},{},{},1,{},{},{}", e.hidden, e.inter, e.top_k, e.experts,
                                     ep, law > 0 ? fmt::format("power_law_{}", law) : "balanced", tokens)});
        }
}

void add_device(std::vector<CalibrationProbe>& out) {
  const auto add = [&](cost::DeviceCost cost, const std::string& shape, const backend::Probe& probe, double amount) {
    out.push_back({Schema::device, probe, fmt::format("{},{},{:.0f}", to_string(cost), shape, amount)});
  };
  for (const std::int64_t n : {1, 2, 4, 8, 16, 32, 64, 128, 256, 512}) {
    const auto amount = static_cast<double>(n);
    add(cost::DeviceCost::issue, "empty", LaunchProbe{LaunchProbe::Kind::issue, n}, amount);
    add(cost::DeviceCost::kernels, "empty", LaunchProbe{LaunchProbe::Kind::kernels, n}, amount);
  }
  for (std::int64_t bytes = 4; bytes <= 65536; bytes *= 4)
    add(cost::DeviceCost::sync, "copy", LaunchProbe{LaunchProbe::Kind::sync, bytes}, static_cast<double>(bytes));
  for (std::int64_t bytes = 4096; bytes <= (std::int64_t{1} << 30); bytes *= 4)
    for (const auto& [cost, kind] : {std::pair{cost::DeviceCost::copy, CopyProbe::Kind::device},
                                     std::pair{cost::DeviceCost::to_device, CopyProbe::Kind::to_device},
                                     std::pair{cost::DeviceCost::to_host, CopyProbe::Kind::to_host}}) {
      if (kind != CopyProbe::Kind::device && bytes > (std::int64_t{256} << 20)) continue;
      const CopyProbe probe{kind, bytes};
      add(cost, "copy", probe, backend::work_of(probe).bytes);
    }
  using Kind = StreamProbe::Kind;
  for (const auto& [kind, name] :
       {std::pair{Kind::permute, "permute"}, std::pair{Kind::combine, "combine"}, std::pair{Kind::gated, "gated"},
        std::pair{Kind::norm, "norm"}, std::pair{Kind::reduce, "reduce"}})
    for (std::int64_t rows = 16; rows <= 65536; rows *= 4)
      for (const std::int64_t cols : {2048, 7168}) {
        const StreamProbe probe{kind, rows, cols, DType::bf16};
        add(cost::DeviceCost::stream, name, probe, backend::work_of(probe).bytes);
      }
}

void add_collectives(std::vector<CalibrationProbe>& out, int gpus) {
  using Kind = Collective::Kind;
  for (int n = 2; n <= gpus; n *= 2)
    for (std::int64_t bytes = 512; bytes <= (std::int64_t{512} << 20); bytes *= 4)
      for (const auto& [kind, named] : {std::pair{Kind::all_gather_v, cost::CollectiveKind::all_gather},
                                        std::pair{Kind::reduce_scatter_v, cost::CollectiveKind::reduce_scatter},
                                        std::pair{Kind::all_reduce, cost::CollectiveKind::all_reduce},
                                        std::pair{Kind::all_to_all_v, cost::CollectiveKind::all_to_all}})
        out.push_back(
            {Schema::nccl, CollectiveProbe{kind, n, bytes}, fmt::format("{},{},{}", cost::to_string(named), n, bytes)});
}

std::string machine_of(const std::string& gpu, const std::string& given) {
  if (!given.empty()) return hardware::load_machine(given).id;
  std::string known;
  for (const std::string& name : hardware::machine_names()) {
    const std::string its = hardware::load_machine(name).gpu.name;
    if (its == gpu) return name;
    known += (known.empty() ? "" : ", ") + its;
  }
  throw InputError({}, fmt::format("no machine file is of '{}'", gpu),
                   fmt::format("--machine FILE.toml says whose data sheet holds; there are {}", known));
}

// "cuBLAS 13.1.0" of "CUDA 13.0, ..., cuBLAS 13.1.0, NCCL 2.28.9"; in the fits' spelling.
std::string version_of(const std::string& versions, const std::string& library, const std::string& name) {
  const std::size_t at = versions.find(library + " ");
  if (at == std::string::npos) return name;
  const std::size_t begin = at + library.size() + 1;
  return name + " " + versions.substr(begin, versions.find(',', begin) - begin);
}

// Removed with what is in it.
class TemporaryFolder {
 public:
  TemporaryFolder() {
    std::string name = (fs::temp_directory_path() / "moesim_XXXXXX").string();
    if (mkdtemp(name.data()) == nullptr) throw std::runtime_error("there is no place for temporary files");
    path_ = name;
  }
  ~TemporaryFolder() {
    std::error_code none;
    fs::remove_all(path_, none);
  }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  [[nodiscard]] std::string file(const std::string& name) const { return (path_ / name).string(); }

 private:
  fs::path path_;
};

class Tables {
 public:
  Tables(std::string machine, const std::string& versions)
      : machine_(std::move(machine)),
        cublas_(version_of(versions, "cuBLAS", "cublas")),
        nccl_(version_of(versions, "NCCL", "nccl")) {}

  void add(const CalibrationProbe& p, const backend::ProbeTime& t) {
    std::string& text = tables_[p.schema];
    if (text.empty()) text = fmt::format("gpu,library,{},time_us,low_us,high_us\n", columns(p.schema));
    const std::string& library = p.schema == Schema::nccl ? nccl_ : cublas_;
    text += fmt::format("{},{},{},{:.6g},{:.6g},{:.6g}\n", machine_, library, p.cells, t.us, t.low, t.high);
    if (const auto* c = std::get_if<CollectiveProbe>(&p.probe)) counts_.insert(c->gpus);
  }

  CudaCalibration fit(const std::string& samples, const std::string& source) const {
    const TemporaryFolder temporary;
    CudaCalibration out{{machine_, {}}, {}};
    for (const auto& [schema, text] : tables_) {
      const std::string name = fmt::format("{}.csv", fit::to_string(schema));
      if (!samples.empty()) write_file((fs::path(samples) / name).string(), text);
      fit::CalibrationOptions options;
      options.files = {temporary.file(name)};
      write_file(options.files.front(), text);
      options.schema = schema;
      options.machine = machine_;
      options.source = source;
      options.holdout = holdout(schema);
      try {
        fit::CalibrationReport report = fit::calibrate(options);
        for (cost::FitEntry& e : report.file.entries) out.fits.entries.push_back(std::move(e));
        out.left_out.insert(out.left_out.end(), report.skipped.begin(), report.skipped.end());
      } catch (const InputError& e) {
        // The rows are ours: what is wrong with them is for the report, and the other tables are fitted.
        out.left_out.push_back(fmt::format("{}: {}", fit::to_string(schema), e.what()));
      }
    }
    if (out.fits.entries.empty())
      throw InputError({},
                       fmt::format("too few probes were measured to fit anything: {}",
                                   out.left_out.empty() ? "none" : out.left_out.front()),
                       "let the measurement run to its end");
    return out;
  }

 private:
  [[nodiscard]] fit::Holdout holdout(Schema schema) const {
    if (schema == Schema::device) return fit::Holdout::size;
    if (schema == Schema::nccl) return counts_.size() > 1 ? fit::Holdout::count : fit::Holdout::size;
    return fit::Holdout::shape;
  }

  std::string machine_, cublas_, nccl_;
  std::map<Schema, std::string> tables_;
  std::set<int> counts_;
};

}  // namespace

std::vector<CalibrationProbe> cuda_probe_list(int gpus) {
  std::vector<CalibrationProbe> out;
  add_device(out);
  add_gemms(out);
  add_experts(out);
  add_collectives(out, gpus);
  return out;
}

CudaCalibration calibrate_cuda(backend::ProbeSource& source, const CudaCalibrationOptions& options) {
  Tables tables(machine_of(source.gpu(), options.machine), source.versions());
  const std::vector<CalibrationProbe> probes = cuda_probe_list(source.gpus());
  std::vector<std::string> left_out;
  std::size_t done = 0;
  for (const CalibrationProbe& p : probes) {
    try {
      tables.add(p, source.measure(p.probe));
    } catch (const backend::Refused& e) {
      left_out.push_back(fmt::format("{}: {}", backend::name_of(p.probe), e.what()));
    }
    ++done;
    const double share = static_cast<double>(done) / static_cast<double>(probes.size());
    if (options.progress && !options.progress(share, backend::name_of(p.probe))) break;
  }
  CudaCalibration out = tables.fit(
      options.samples, fmt::format("moesim calibrate --backend cuda on {} ({}): {} probes, kernels in graphs, medians",
                                   source.gpu(), source.versions(), done - left_out.size()));
  out.left_out.insert(out.left_out.begin(), left_out.begin(), left_out.end());
  return out;
}

}  // namespace moesim::study
