// The verbs of the command line: one file each. A verb adds its subcommand and says what to run.
#pragma once

#include <CLI/CLI.hpp>
#include <functional>

namespace moesim::cli {

// Exit codes, the same for every verb.
enum Exit : int {
  ok = 0,
  no = 1,           // the study says no: nothing fits, or a comparison is out of tolerance
  bad_input = 2,    // a file or an option is wrong
  unavailable = 3,  // a backend, library or device is missing
  failed = 70,      // EX_SOFTWARE of sysexits.h: a defect, or a rank that died
};

using Run = std::function<int()>;  // returns an Exit
// Each sets `run` when its subcommand was given.
void add_simulate(CLI::App& app, Run& run);
void add_run(CLI::App& app, Run& run);
void add_compare(CLI::App& app, Run& run);
void add_calibrate(CLI::App& app, Run& run);
void add_bench(CLI::App& app, Run& run);
void add_check(CLI::App& app, Run& run);
void add_plan(CLI::App& app, Run& run);
void add_place(CLI::App& app, Run& run);
void add_advise(CLI::App& app, Run& run);
void add_fit(CLI::App& app, Run& run);
void add_list(CLI::App& app, Run& run);
void add_validate(CLI::App& app, Run& run);

}  // namespace moesim::cli
