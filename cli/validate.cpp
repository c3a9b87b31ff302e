#include "models/fit/validate.hpp"

#include <fmt/format.h>

#include <map>
#include <memory>

#include "cli/verbs.hpp"

namespace moesim::cli {

void add_validate(CLI::App& app, Run& run) {
  struct Args {
    fit::ValidationOptions options;
    std::string schema, csv, predictions;
    bool summary = false, markdown = false, json = false;
  };
  CLI::App* verb = app.add_subcommand("validate", "How far predictions are from measurements they have not seen");
  const auto args = std::make_shared<Args>();
  const std::map<std::string, fit::Schema> schemas{{"gemm", fit::Schema::gemm},
                                                   {"moe_kernel", fit::Schema::moe_kernel},
                                                   {"nccl", fit::Schema::nccl},
                                                   {"deepep", fit::Schema::deepep},
                                                   {"device", fit::Schema::device}};
  auto* from = verb->add_option("--from", args->options.files,
                                "Rows to judge by, instead of the figures that ship; `gpu` names machines");
  auto* schema =
      verb->add_option("--schema", args->schema, "What the rows are: gemm, moe_kernel, nccl, deepep or device")
          ->check(CLI::IsMember(schemas));
  schema->needs(from);
  from->needs(schema);
  verb->add_option("--gpu", args->options.gpu, "Only rows of this GPU, as the files name it");
  verb->add_option("--machine", args->options.machine,
                   "Only this machine; with --gpu, the machine whose data sheet holds for those rows");
  verb->add_option("--fit", args->options.fit,
                   "Predict by this fit file instead of the shipped ones, transferred where it is another machine's");
  verb->add_flag("--summary", args->summary,
                 "Only lines over all regimes, of the slowdown under skew, and of several nodes predicted from one");
  auto* markdown = verb->add_flag("--markdown", args->markdown, "As a table for a README");
  verb->add_flag("--json", args->json, "As JSON")->excludes(markdown);
  verb->add_option("--csv", args->csv, "Also write the table as CSV");
  verb->add_option("--predictions", args->predictions, "CSV to write: every figure, measured and predicted");
  verb->footer(R"(Two kinds of lines: rows that were held out when a fit was made, as its file records, and figures
that others published, predicted now. Errors are |ln(predicted / measured)|; coverage is the share of rows inside the
90 % interval; beside them the roofline with latency and bandwidth, and interpolation between the nearest rows.

Examples:
  moesim validate --summary --markdown
  moesim validate --from my_gemms.csv --schema gemm --machine h100_sxm)");
  verb->callback([args, schemas, &run] {
    run = [args, schemas] {
      if (!args->schema.empty()) args->options.schema = schemas.at(args->schema);
      fit::ValidationTable table = fit::validate(args->options);
      if (args->summary)
        std::erase_if(table.lines, [](const fit::ValidationLine& l) {
          const std::string& regime = l.accuracy.regime;
          return regime != "all" && regime != "slowdown under skew" && !regime.ends_with("nodes");
        });
      if (!args->csv.empty()) fit::write_csv(table, args->csv);
      if (!args->predictions.empty()) fit::write_predictions(table.rows, args->predictions);
      fmt::print("{}", args->json ? fit::to_json(table) : fit::render(table, args->markdown));
      return Exit::ok;
    };
  });
}

}  // namespace moesim::cli
