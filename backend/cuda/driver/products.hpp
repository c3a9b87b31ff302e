// Matrix products by cuBLASLt (dense) and cuBLAS (grouped).
#pragma once

#include <cuda_runtime_api.h>

#include <map>
#include <memory>
#include <vector>

#include "backend/cuda/command.hpp"

namespace moesim::backend::gpu {

// One per stream: a workspace serves one product at a time.
class Products {
 public:
  explicit Products(cudaStream_t stream);
  ~Products();
  Products(const Products&) = delete;
  Products& operator=(const Products&) = delete;

  void enqueue(const Product& c);
  void enqueue(const GroupedProduct& c);

 private:
  struct Chosen;  // layouts and algorithm of one shape
  Chosen& chosen(const Product& c);
  // Host arrays of a grouped product. A captured graph may refer to them, so they stay.
  struct Groups {
    std::int64_t n = 0, k = 0;
    std::vector<int> m, all_n, all_k, ones, plain, turned;
    std::vector<float> alpha, beta;
  };

  cudaStream_t stream_;
  void* lt_ = nullptr;    // cublasLtHandle_t
  void* blas_ = nullptr;  // cublasHandle_t
  void* workspace_ = nullptr;
  std::map<std::vector<std::int64_t>, std::unique_ptr<Chosen>> chosen_;
  std::map<const std::byte*, Groups> groups_;  // by the address of the table
};

// "13.1.0"
std::string cublas_version();

}  // namespace moesim::backend::gpu
