#include "backend/cuda/driver/products.hpp"

#include <cublasLt.h>
#include <cublas_v2.h>

#include <algorithm>
#include <climits>

#include "backend/cuda/driver/check.hpp"

namespace moesim::backend::gpu {
namespace {

// What cuBLASLt's documentation advises for Hopper; smaller GPUs need less.
constexpr std::size_t workspace_bytes = std::size_t{32} << 20;

void check(cublasStatus_t status, const char* what) {
  if (status != CUBLAS_STATUS_SUCCESS)
    throw std::runtime_error(std::string("cuBLAS: ") + what + ": " + cublasGetStatusString(status));
}

cudaDataType_t type_of(DType t) {
  switch (t) {
    case DType::f32:
      return CUDA_R_32F;
    case DType::bf16:
      return CUDA_R_16BF;
    case DType::f16:
      return CUDA_R_16F;
    case DType::fp8:
    case DType::int8:
    case DType::fp4:
    case DType::i32:
      break;
  }
  throw std::runtime_error("cuBLAS: a product of a number format that only moves");
}

cublasComputeType_t compute_of(Math m) { return m == Math::tf32 ? CUBLAS_COMPUTE_32F_FAST_TF32 : CUBLAS_COMPUTE_32F; }

// Largest power of two, 256 at most, that divides an address and its strides.
std::uint32_t alignment_of(const void* p, std::initializer_list<std::int64_t> strides) {
  auto all = reinterpret_cast<std::uintptr_t>(p) | 256U;
  for (const std::int64_t s : strides) all |= static_cast<std::uintptr_t>(s);
  return static_cast<std::uint32_t>(all & (~all + 1));
}

// cublasGemmGroupedBatchedEx reads 16 bytes at once from operands of two bytes, and for TF32, and faults on an address
// that is no multiple of them (less strict where rows are not such multiples either).
bool takes(const GroupedProduct& c) {
  if (c.x == DType::f32 && c.math != Math::tf32) return true;
  return std::all_of(c.groups.begin(), c.groups.end(), [](const GroupedProduct::Group& g) {
    return alignment_of(g.x, {}) >= 16 && alignment_of(g.w, {}) >= 16 && alignment_of(g.y, {}) >= 16;
  });
}

struct Layout {
  cublasLtMatrixLayout_t handle = nullptr;
  Layout() = default;
  Layout(const Layout&) = delete;
  Layout& operator=(const Layout&) = delete;
  ~Layout() {
    if (handle != nullptr) cublasLtMatrixLayoutDestroy(handle);
  }
  // A row-major matrix [rows, cols] is a column-major one [cols, rows].
  void make(const Tensor& t, std::int64_t rows, std::int64_t cols, std::int64_t ld, std::int64_t batch,
            std::int64_t stride) {
    check(cublasLtMatrixLayoutCreate(&handle, type_of(t.dtype), static_cast<std::uint64_t>(cols),
                                     static_cast<std::uint64_t>(rows), ld),
          "a layout");
    const auto count = static_cast<std::int32_t>(batch);
    check(cublasLtMatrixLayoutSetAttribute(handle, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &count, sizeof count),
          "a batch");
    check(cublasLtMatrixLayoutSetAttribute(handle, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, &stride, sizeof stride),
          "a batch");
  }
};

}  // namespace

struct Products::Chosen {
  cublasLtMatmulDesc_t product = nullptr;
  Layout w, x, y;
  cublasLtMatmulAlgo_t algorithm{};
  ~Chosen() {
    if (product != nullptr) cublasLtMatmulDescDestroy(product);
  }
};

Products::Products(cudaStream_t stream) : stream_(stream) {
  check(cublasLtCreate(reinterpret_cast<cublasLtHandle_t*>(&lt_)), "a handle");
  check(cublasCreate(reinterpret_cast<cublasHandle_t*>(&blas_)), "a handle");
  check(cudaMalloc(&workspace_, workspace_bytes), "the workspace of cuBLAS");
  check(cublasSetStream(static_cast<cublasHandle_t>(blas_), stream), "a stream");
  check(cublasSetWorkspace(static_cast<cublasHandle_t>(blas_), workspace_, workspace_bytes), "the workspace");
}

Products::~Products() {
  chosen_.clear();
  if (blas_ != nullptr) cublasDestroy(static_cast<cublasHandle_t>(blas_));
  if (lt_ != nullptr) cublasLtDestroy(static_cast<cublasLtHandle_t>(lt_));
  cudaFree(workspace_);
}

Products::Chosen& Products::chosen(const Product& c) {
  const std::int64_t x_part = c.x.cols / c.batch;
  const std::int64_t w_ld = c.w.cols;
  const std::int64_t x_bytes = c.x.element_bytes();
  const std::int64_t y_bytes = c.y.element_bytes();
  const std::uint32_t w_align = alignment_of(c.w.data, {w_ld * c.w.element_bytes()});
  const std::uint32_t x_align = alignment_of(c.x.data, {c.x.cols * x_bytes, c.batch > 1 ? x_part * x_bytes : 0});
  const std::uint32_t y_align = alignment_of(c.y.data, {c.y.cols * y_bytes, c.batch > 1 ? c.n * y_bytes : 0});
  auto& out =
      chosen_[{c.m, c.n, c.k, c.batch, c.x.cols, w_ld, c.y.cols, (c.transposed ? 1 : 0) + (c.x_transposed ? 2 : 0),
               static_cast<std::int64_t>(c.math), static_cast<std::int64_t>(c.x.dtype),
               static_cast<std::int64_t>(c.w.dtype), static_cast<std::int64_t>(c.y.dtype), w_align, x_align, y_align}];
  if (out != nullptr) return *out;
  auto made = std::make_unique<Chosen>();
  check(cublasLtMatmulDescCreate(&made->product, compute_of(c.math), CUDA_R_32F), "a product");
  // Y^T = W^T X^T in column-major order.
  const cublasOperation_t w_op = c.transposed ? CUBLAS_OP_T : CUBLAS_OP_N;
  check(cublasLtMatmulDescSetAttribute(made->product, CUBLASLT_MATMUL_DESC_TRANSA, &w_op, sizeof w_op), "a product");
  const cublasOperation_t x_op = c.x_transposed ? CUBLAS_OP_T : CUBLAS_OP_N;
  check(cublasLtMatmulDescSetAttribute(made->product, CUBLASLT_MATMUL_DESC_TRANSB, &x_op, sizeof x_op), "a product");
  if (c.transposed)
    made->w.make(c.w, c.n, c.k, w_ld, c.batch, c.n * w_ld);
  else
    made->w.make(c.w, c.k, c.n, w_ld, c.batch, c.k * w_ld);
  if (c.x_transposed)
    made->x.make(c.x, c.k, c.m, c.x.cols, 1, 0);
  else
    made->x.make(c.x, c.m, c.k, c.x.cols, c.batch, x_part);
  made->y.make(c.y, c.m, c.n, c.y.cols, c.batch, c.n);

  cublasLtMatmulPreference_t preference = nullptr;
  check(cublasLtMatmulPreferenceCreate(&preference), "a preference");
  const auto prefer = [&](cublasLtMatmulPreferenceAttributes_t what, const auto& value) {
    return cublasLtMatmulPreferenceSetAttribute(preference, what, &value, sizeof value);
  };
  cublasLtMatmulHeuristicResult_t found{};
  int count = 0;
  cublasStatus_t status = prefer(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, workspace_bytes);
  if (status == CUBLAS_STATUS_SUCCESS) status = prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, w_align);
  if (status == CUBLAS_STATUS_SUCCESS) status = prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, x_align);
  if (status == CUBLAS_STATUS_SUCCESS) status = prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, y_align);
  if (status == CUBLAS_STATUS_SUCCESS) status = prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, y_align);
  if (status == CUBLAS_STATUS_SUCCESS)
    status =
        cublasLtMatmulAlgoGetHeuristic(static_cast<cublasLtHandle_t>(lt_), made->product, made->w.handle,
                                       made->x.handle, made->y.handle, made->y.handle, preference, 1, &found, &count);
  cublasLtMatmulPreferenceDestroy(preference);
  check(status, "choosing an algorithm");
  if (count == 0) throw std::runtime_error("cuBLAS: it has no algorithm for this product");
  made->algorithm = found.algo;
  out = std::move(made);
  return *out;
}

void Products::enqueue(const Product& c) {
  if (c.m == 0 || c.n == 0) return;
  Chosen& how = chosen(c);
  const float one = 1;
  const float beta = c.adds ? 1 : 0;
  check(cublasLtMatmul(static_cast<cublasLtHandle_t>(lt_), how.product, &one, c.w.data, how.w.handle, c.x.data,
                       how.x.handle, &beta, c.y.data, how.y.handle, c.y.data, how.y.handle, &how.algorithm, workspace_,
                       workspace_bytes, stream_),
        "a product");
}

void Products::enqueue(const GroupedProduct& c) {
  if (!takes(c)) {
    for (const GroupedProduct::Group& g : c.groups) enqueue(product_of(c, g));
    return;
  }
  const auto count = c.groups.size();
  Groups& g = groups_[c.addresses];
  std::vector<int> m;
  for (const GroupedProduct::Group& each : c.groups) {
    if (each.m > INT_MAX) throw std::runtime_error("cuBLAS: a group of more than 2^31 rows");
    m.push_back(static_cast<int>(each.m));
  }
  if (g.n != c.n || g.k != c.k || g.m != m) {
    if (c.n > INT_MAX || c.k > INT_MAX) throw std::runtime_error("cuBLAS: a grouped product of more than 2^31 columns");
    const auto n = static_cast<int>(c.n);
    const auto k = static_cast<int>(c.k);
    g = {c.n,
         c.k,
         std::move(m),
         std::vector<int>(count, n),
         std::vector<int>(count, k),
         std::vector<int>(count, 1),
         std::vector<int>(count, CUBLAS_OP_N),
         std::vector<int>(count, CUBLAS_OP_T),
         std::vector<float>(count, 1.0F),
         std::vector<float>(count, 0.0F)};
  }
  static_assert(sizeof(cublasOperation_t) == sizeof(int));
  const auto* plain = reinterpret_cast<const cublasOperation_t*>(g.plain.data());
  const auto* turned = reinterpret_cast<const cublasOperation_t*>(g.turned.data());
  const auto* addresses = reinterpret_cast<const void* const*>(c.addresses);
  // Y^T = W^T X^T in column-major order; with x_transposed X^T is [k, m], whose product with W has k columns and sums m
  // terms.
  const int* columns = c.x_transposed ? g.all_k.data() : g.m.data();
  const int* terms = c.x_transposed ? g.m.data() : g.all_k.data();
  check(cublasGemmGroupedBatchedEx(static_cast<cublasHandle_t>(blas_), c.transposed ? turned : plain,
                                   c.x_transposed ? turned : plain, g.all_n.data(), columns, terms, g.alpha.data(),
                                   addresses, type_of(c.w), c.transposed ? g.all_k.data() : g.all_n.data(),
                                   addresses + count, type_of(c.x), g.all_k.data(), g.beta.data(),
                                   const_cast<void* const*>(addresses + 2 * count), type_of(c.y), g.all_n.data(),
                                   static_cast<int>(count), g.ones.data(), compute_of(c.math)),
        "a grouped product");
}

std::string cublas_version() {
  const std::size_t v = cublasLtGetVersion();
  return std::to_string(v / 10000) + "." + std::to_string(v / 100 % 100) + "." + std::to_string(v % 100);
}

}  // namespace moesim::backend::gpu
