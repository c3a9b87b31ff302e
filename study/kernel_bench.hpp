// The kernels of the CUDA executor against what the same GPU gives at best: memory-bound ones against its copy
// bandwidth, grouped products against one product of as many FLOPs.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "backend/probe.hpp"

namespace moesim::study {

struct KernelRow {
  std::string name;
  backend::ProbeTime time;
  double rate = 0;      // bytes or flops per second
  bool matrix = false;  // rate is flops
  double share = 0;     // of the ceiling: copy bandwidth; of a grouped product: the time of the one product
  double aim = 0;       // that the share should reach; 0 = none
};

struct KernelBench {
  std::string gpu, versions;
  double copy_rate = 0;  // bytes per second read and written by a copy on the device
  double gemm_rate = 0;  // flops per second of a product of 8192 x 8192 x 8192 in bf16
  std::vector<KernelRow> rows;
  std::vector<std::string> left_out;  // what does not fit into memory
};

// 16 Ki tokens x 4,096; grouped products of Mixtral's and DeepSeek-V3's shapes, balanced and with half of all rows in
// one group. progress: false ends it.
KernelBench bench_kernels(backend::ProbeSource& source,
                          const std::function<bool(double, const std::string&)>& progress);

std::string render_kernels(const KernelBench& bench);
std::string kernels_json(const KernelBench& bench);

}  // namespace moesim::study
