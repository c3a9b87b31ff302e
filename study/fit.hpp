// Fits numbers of a machine to the figures that a scenario marks with use = "fit".
//
// Levenberg-Marquardt on ln(predicted / published) over the logarithms of the numbers, which keeps them positive and
// weighs figures by their relative error. Efficiencies stay below 1 through x = 1 / (1 + exp(-u)).
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "study/runner.hpp"

namespace moesim::study {

struct FitParameter {
  std::string key;   // of the machine: "gpu.launch"
  std::string unit;  // as the machine file writes it; empty for efficiencies
  double initial = 0;
  double fitted = 0;
};

struct FitResult {
  std::vector<FitParameter> parameters;
  int figures = 0;       // used in the fit
  double rms_error = 0;  // of ln(predicted / published) over them
  std::string overlay;   // the file's text: the fitted numbers with their provenance
};

// The numbers that can be fitted.
std::vector<std::string> fit_keys();

// Throws InputError for unknown keys, and where the scenario has fewer figures to fit than keys.
FitResult fit_machine(const Scenario& scenario, const std::vector<std::string>& keys,
                      const std::function<void(int evaluation)>& progress);

}  // namespace moesim::study
