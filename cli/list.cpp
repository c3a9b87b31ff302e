#include <fmt/format.h>

#include <memory>

#include "cli/verbs.hpp"
#include "models/arch/zoo.hpp"
#include "models/hardware/machine.hpp"
#include "models/load/synthetic.hpp"
#include "strategies/strategy.hpp"

namespace moesim::cli {
namespace {

void list_models() {
  fmt::print("{}\n", arch::summary_header());
  for (const std::string& name : arch::zoo_names()) fmt::print("{}\n", arch::summary(arch::load(name)));
}

void list_machines() {
  fmt::print("{}\n", hardware::summary_header());
  for (const std::string& name : hardware::machine_names())
    fmt::print("{}\n", hardware::summary(hardware::load_machine(name)));
}

void list_strategies() {
  for (const strategies::Strategy& s : strategies::all()) {
    fmt::print("{}\n    {}\n", s.name, s.summary);
    for (const strategies::OptionSpec& o : s.options) {
      const std::string fallback = std::visit([](const auto& v) { return fmt::format("{}", v); }, o.fallback);
      fmt::print("    {:<18} {}{} (default {})\n", o.name, o.summary,
                 o.choices.empty() ? "" : fmt::format(": {}", fmt::join(o.choices, ", ")), fallback);
    }
    fmt::print("\n");
  }
}

void list_routing() {
  for (const load::LawInfo& law : load::laws()) {
    fmt::print("{:<12} {}\n", law.name, law.summary);
    for (const load::LawParameter& p : law.parameters)
      fmt::print("    {:<10} {} ({} to {}, default {})\n", p.name, p.meaning, p.minimum, p.maximum, p.fallback);
  }
  fmt::print(
      "\nRecorded routing: trace = \"FILE\" (.npy [layers, tokens, top_k], .jsonl, .csv of counts; .gz of each)\n");
}

}  // namespace

void add_list(CLI::App& app, Run& run) {
  CLI::App* verb = app.add_subcommand("list", "What a scenario can name");
  const auto what = std::make_shared<std::string>();
  const std::map<std::string, void (*)()> lists{
      {"models", list_models}, {"machines", list_machines}, {"strategies", list_strategies}, {"routing", list_routing}};
  verb->add_option("what", *what, "models, machines, strategies or routing")->required()->check(CLI::IsMember(lists));
  verb->callback([what, lists, &run] {
    run = [what, lists] {
      lists.at (*what)();
      return Exit::ok;
    };
  });
}

}  // namespace moesim::cli
