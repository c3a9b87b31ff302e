// Collects the measured runs of an executor and picks the Timeline among them.
#pragma once

#include <string>
#include <vector>

#include "backend/executor.hpp"

namespace moesim::backend {

class Recorder {
 public:
  explicit Recorder(const RunOptions& options) : options_(options) {}
  // Takes the next run; false when that was the last one wanted.
  bool take(Timeline t);
  // how: what was measured, for the method's sentence.
  Measurement finish(const std::string& how);
  [[nodiscard]] int wanted() const { return options_.warmup + options_.repeats; }

 private:
  const RunOptions& options_;
  int runs_ = 0;
  std::vector<Timeline> timelines_;
  Measurement measurement_;
};

}  // namespace moesim::backend
