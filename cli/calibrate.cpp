#include "models/fit/calibrate.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <memory>

#include "backend/executor.hpp"
#include "backend/probe.hpp"
#include "cli/interrupt.hpp"
#include "cli/progress.hpp"
#include "cli/verbs.hpp"
#include "models/cost/fitted.hpp"
#include "models/cost/host_model.hpp"
#include "models/fit/shipped.hpp"
#include "study/cuda_calibration.hpp"
#include "study/host_calibration.hpp"

namespace moesim::cli {
namespace {

struct Args {
  fit::CalibrationOptions options;
  std::string schema, holdout;
  std::string transfer;     // a fit file to carry over to `machine`
  std::string predictions;  // CSV
  std::string backend;      // to measure with
  std::string samples;      // cuda: folder for the measured rows
  study::HostCalibrationOptions host;
};

// Collectives and exchanges are asked for other numbers of GPUs, kernels for other shapes.
fit::Holdout usual_holdout(fit::Schema schema) {
  if (schema == fit::Schema::device) return fit::Holdout::size;
  return schema == fit::Schema::nccl || schema == fit::Schema::deepep ? fit::Holdout::count : fit::Holdout::shape;
}

int transfer(const Args& args) {
  const cost::FitFile from = cost::read_fit_file(args.transfer);
  if (args.options.machine.empty())
    throw InputError({args.transfer, 0, 0}, "the machine to transfer to is missing", "as in --machine h200_sxm");
  const hardware::MachineSpec to = hardware::load_machine(args.options.machine);
  const cost::FitFile out =
      cost::transfer(from, hardware::load_machine(from.machine).gpu, to.gpu, to.id, fit::transfer_errors());
  if (args.options.output.empty())
    fmt::print("{}", cost::to_toml(out));
  else
    cost::write_fit_file(out, args.options.output);
  return Exit::ok;
}

int write_fits(const cost::FitFile& fits, const std::string& output) {
  fmt::print("{}", fit::accuracy_header());
  for (cost::FitEntry e : fits.entries) {
    if (e.schema == cost::host_schema) e.schema += " " + e.variant;
    e.library.resize(std::min(e.library.size(), e.library.find(',')));
    fmt::print("{}", fit::accuracy_lines(e));
  }
  if (output.empty()) {
    fmt::print("\n{}", cost::to_toml(fits));
  } else {
    cost::write_fit_file(fits, output);
    fmt::print(stderr, "wrote {}\n", output);
  }
  return Exit::ok;
}

// Measures this machine's GPUs. An interrupt ends the measurement, and what there is is fitted.
int calibrate_cuda(const Args& args) {
  const std::string& why = backend::cuda().unavailable();
  if (!why.empty()) {
    fmt::print(stderr, "cuda: {}\n", why);
    return Exit::unavailable;
  }
  study::CudaCalibration out;
  try {
    Progress progress;
    study::CudaCalibrationOptions options{args.options.machine, args.samples, {}};
    const Interrupt interrupt;
    options.progress = [&](double share, const std::string& what) {
      progress(share, what);
      return !interrupt.came();
    };
    out = study::calibrate_cuda(*backend::cuda_probes(), options);
  } catch (const backend::Refused& e) {
    fmt::print(stderr, "cuda: {}\n", e.what());
    return Exit::unavailable;
  }
  for (const std::string& s : out.left_out) fmt::print(stderr, "left out: {}\n", s);
  return write_fits(out.fits, args.options.output);
}

// Measures this computer instead of reading rows. An interrupt ends the measurement, and what there is is fitted.
int calibrate_host(const Args& args) {
  cost::FitFile fits;
  {
    Progress progress;
    study::HostCalibrationOptions options = args.host;
    const Interrupt interrupt;
    options.progress = [&](double share) {
      progress(share, "measuring this computer");
      return !interrupt.came();
    };
    fits = study::calibrate_host(*backend::find_executor(args.backend), options);
  }
  return write_fits(fits, args.options.output);
}

int calibrate(const Args& args) {
  fit::CalibrationReport report;
  {
    Progress progress;
    fit::CalibrationOptions options = args.options;
    options.progress = [&](double share, std::string_view what) { progress(share, std::string(what)); };
    report = fit::calibrate(options);
  }
  if (!args.predictions.empty()) fit::write_predictions(fit::predictions(report), args.predictions);
  fmt::print("{}", fit::render(report));
  if (!args.options.output.empty()) fmt::print(stderr, "wrote {}\n", args.options.output);
  return Exit::ok;
}

}  // namespace

void add_calibrate(CLI::App& app, Run& run) {
  CLI::App* verb = app.add_subcommand("calibrate", "Fit cost models to measured times, judged on held-out rows");
  const auto args = std::make_shared<Args>();
  fit::CalibrationOptions& o = args->options;
  const std::map<std::string, fit::Schema> schemas{{"gemm", fit::Schema::gemm},
                                                   {"moe_kernel", fit::Schema::moe_kernel},
                                                   {"nccl", fit::Schema::nccl},
                                                   {"deepep", fit::Schema::deepep},
                                                   {"device", fit::Schema::device}};
  const std::map<std::string, fit::Holdout> holdouts{
      {"shape", fit::Holdout::shape}, {"size", fit::Holdout::size}, {"count", fit::Holdout::count}};
  auto* from = verb->add_option("--from", o.files, "Measured rows: CSV, plain or .gz (docs/cost_models.md)");
  auto* schema =
      verb->add_option("--schema", args->schema, "What the rows are: gemm, moe_kernel, nccl, deepep or device")
          ->check(CLI::IsMember(schemas));
  verb->add_option("-o,--output", o.output, "Fit file to write (FILE.fit.toml)");
  verb->add_flag("--update", o.update, "Keep what the fit file already has of other schemas, libraries and formats");
  verb->add_option("--holdout", args->holdout,
                   "What is kept from the fit and predicted: shape (kernels), count (of GPUs or nodes; communication) "
                   "or size")
      ->check(CLI::IsMember(holdouts));
  verb->add_option("--gpu", o.gpu, "Only rows of this GPU, as the files name it");
  verb->add_option("--library", o.library, "Only rows whose library begins so");
  verb->add_option("--machine", o.machine, "Machine whose data sheet holds, where the rows' GPU is named otherwise");
  verb->add_option("--source", o.source, "Where the rows are from, for the file's provenance (default: their files)");
  verb->add_option("--exclude", o.excluded_shapes, "Shapes that no fit may see (\"4096x7168\"), kept for validation");
  verb->add_option("--predictions", args->predictions, "CSV to write: every row measured and predicted while held out");
  verb->add_option("--rows", o.most_rows, "Rows of one library and format that a fit looks at, evenly picked")
      ->check(CLI::Range(100, 1'000'000))
      ->capture_default_str();
  auto* move = verb->add_option("--transfer", args->transfer,
                                "Carry a fit file's parameters over to --machine; intervals widen");
  auto* backend =
      verb->add_option("--backend", args->backend,
                       "Measure this computer instead: host, its processor (docs/host_executor.md), or cuda, its GPUs "
                       "(docs/cuda.md)")
          ->check(CLI::IsMember({"host", "cuda"}))
          ->excludes(from)
          ->excludes(move);
  verb->add_option("--probes", args->host.probes, "host: plans to measure")
      ->check(CLI::Range(1, 10'000))
      ->needs(backend)
      ->capture_default_str();
  verb->add_option("--repeat", args->host.repeats, "host: runs of each, of which the fastest counts")
      ->check(CLI::Range(1, 1000))
      ->needs(backend)
      ->capture_default_str();
  verb->add_option_function<std::string>(
          "--format",
          [args](const std::string& name) {
            args->host.format = name == "bf16" ? DType::bf16 : name == "f16" ? DType::f16 : DType::f32;
          },
          "host: number format of weights and activations: f32 (default), bf16 or f16")
      ->check(CLI::IsMember({"f32", "bf16", "f16"}))
      ->needs(backend);
  verb->add_option("--samples", args->samples, "cuda: folder to keep the measured rows in, a CSV per schema")
      ->needs(backend);
  schema->needs(from);
  from->needs(schema);
  from->excludes(move);
  verb->footer(R"(Examples:
  moesim calibrate --from gemm.csv.gz --schema gemm --gpu h100_sxm -o h100_sxm.fit.toml
  moesim calibrate --from nccl.csv --schema nccl --holdout count -o h100_sxm.fit.toml --update
  moesim calibrate --transfer h100_sxm.fit.toml --machine h200_sxm -o h200_sxm.fit.toml
  moesim simulate my.toml --machine h100_sxm.fit.toml
  moesim calibrate --backend host -o this.fit.toml      half a minute; Ctrl-C fits what there is by then
  moesim calibrate --backend cuda -o this.fit.toml --samples this/      a GPU or all of a node

With --backend cuda, --machine names the data sheet where no machine file has the GPU's name.

Exit codes: 0 written; 2 rows that cannot be used, with file:line:column; 3 there is no GPU, or no CUDA executor.)");
  verb->callback([args, schemas, holdouts, &run] {
    if (args->transfer.empty() && args->options.files.empty() && args->backend.empty())
      throw CLI::RequiredError("--from FILES, --transfer FILE.fit.toml or --backend host|cuda,");
    run = [args, schemas, holdouts] {
      if (args->backend == "cuda") return calibrate_cuda(*args);
      if (!args->backend.empty()) return calibrate_host(*args);
      if (!args->transfer.empty()) return transfer(*args);
      args->options.schema = schemas.at(args->schema);
      args->options.holdout = args->holdout.empty() ? usual_holdout(args->options.schema) : holdouts.at(args->holdout);
      return calibrate(*args);
    };
  });
}

}  // namespace moesim::cli
