#pragma once

#include <vector>

namespace moesim::fit {

// The q-quantile, linear between order statistics; 0 of none.
double quantile(std::vector<double> values, double q);

// Of residuals r: median and 90 % quantile of |r|, and the median of r.
struct Spread {
  double median = 0, p90 = 0, bias = 0;
};
Spread spread(const std::vector<double>& residuals);

}  // namespace moesim::fit
