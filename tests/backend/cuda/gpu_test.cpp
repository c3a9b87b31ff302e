// With a GPU: every kernel is the processor's, every strategy gives what the host gives. Exits with 77 ("skipped")
// where there is none, so that nothing is reported as passed that did not run.
#define DOCTEST_CONFIG_IMPLEMENT
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <functional>

#include "backend/cuda/executor.hpp"
#include "backend/cuda/number.hpp"
#include "backend/cuda/virtual_ranks.hpp"
#include "backend/host/numerics.hpp"
#include "tests/backend/cuda/processor.hpp"
#include "tests/backend/small_models.hpp"

using namespace moesim;
using namespace moesim::test;
using namespace moesim::backend;
namespace gpu = moesim::backend::gpu;

namespace {

gpu::Driver& driver() { return *gpu::loaded().driver; }

constexpr DType types[] = {DType::f32, DType::bf16, DType::f16};
double ulp(DType t) { return t == DType::f32 ? 2e-6 : t == DType::bf16 ? 0x1p-8 : 0x1p-11; }

// One memory on the processor and one on the GPU, with the same content at the same offsets. A command is made for each
// from addresses in it, and both are carried out.
class Twins {
 public:
  Twins() : device_(driver().open(0)), host_(room), gpu_(device_->allocate(room, gpu::Device::Memory::device)) {}

  struct At {
    std::int64_t offset;
    DType dtype;
    std::int64_t rows, cols;
  };
  At tensor(DType t, std::int64_t rows, std::int64_t cols, bool random = true) {
    const At at{used_, t, rows, cols};
    std::normal_distribution<float> normal;
    for (std::int64_t i = 0; random && i < rows * cols; ++i) gpu::store(host_.data() + used_, t, i, normal(random_));
    use(rows * cols * bits(t) / 8);
    return at;
  }
  template <class T>
  At table(const std::vector<T>& v) {
    const At at{used_, DType::i32, 1, 0};
    std::copy_n(reinterpret_cast<const std::byte*>(v.data()), v.size() * sizeof(T), host_.data() + used_);
    use(static_cast<std::int64_t>(v.size() * sizeof(T)));
    return at;
  }
  struct Base {
    std::byte* base;
    [[nodiscard]] Tensor operator()(const At& a) const { return {base + a.offset, a.dtype, a.rows, a.cols}; }
    template <class T>
    [[nodiscard]] const T* table(const At& a) const {
      return reinterpret_cast<const T*>(base + a.offset);
    }
  };

  void check(const At& result, double relative, const std::function<gpu::Command(const Base&)>& make) {
    std::vector<std::byte> before = host_;
    device_->upload(gpu_, before);
    carry_out(make({host_.data()}));
    device_->enqueue(make({gpu_}), 0);
    REQUIRE(device_->finish(30, [] { return false; }));
    std::vector<std::byte> got(host_.size());
    device_->download(got, gpu_);
    for (std::int64_t r = 0; r < result.rows; ++r) {
      double largest = 1e-6;
      double worst = 0;
      for (std::int64_t c = 0; c < result.cols; ++c) {
        const std::int64_t i = r * result.cols + c;
        const double expected = gpu::load(host_.data() + result.offset, result.dtype, i);
        const double other = gpu::load(got.data() + result.offset, result.dtype, i);
        largest = std::max(largest, std::abs(expected));
        worst = std::isnan(expected - other) ? INFINITY : std::max(worst, std::abs(expected - other));
      }
      CHECK(worst <= relative * largest);
    }
    // Nothing else was touched.
    const auto size = static_cast<std::size_t>(result.rows * result.cols * bits(result.dtype) / 8);
    const auto from = static_cast<std::size_t>(result.offset);
    CHECK(std::equal(before.begin(), before.begin() + result.offset, got.begin()));
    CHECK(std::equal(before.begin() + static_cast<std::ptrdiff_t>(from + size), before.end(),
                     got.begin() + static_cast<std::ptrdiff_t>(from + size)));
  }

 private:
  static constexpr std::size_t room = std::size_t{8} << 20;
  void use(std::int64_t bytes) {
    used_ += (bytes + 255) / 256 * 256;
    if (used_ > static_cast<std::int64_t>(room)) throw std::logic_error("the test needs more room");
  }
  std::unique_ptr<gpu::Device> device_;
  std::vector<std::byte> host_;
  std::byte* gpu_;
  std::int64_t used_ = 0;
  std::mt19937 random_{1};
};

}  // namespace

TEST_CASE("rows: permute, combine, sum, convert, embed") {
  for (const DType from : types)
    for (const DType to : types)
      for (const std::int64_t cols : {1, 24, 37, 1024}) {
        Twins t;
        const auto x = t.tensor(from, 9, cols);
        const auto y = t.tensor(to, 4, cols, false);
        const auto begin = t.table(std::vector<std::int64_t>{0, 1, 1, 4, 6});
        const auto rows = t.table(std::vector<std::int32_t>{3, 0, 8, 8, 2, 1});
        const auto weights = t.table(std::vector<float>{0.5F, 0.25F, 1.5F, 0.125F, 1, 0.3F});
        for (const bool weighted : {false, true})
          t.check(y, 0, [&](const Twins::Base& b) {
            return gpu::MoveRows{b.table<std::int64_t>(begin),
                                 b.table<std::int32_t>(rows),
                                 weighted ? b.table<float>(weights) : nullptr,
                                 0,
                                 4,
                                 b(x),
                                 b(y)};
          });
        const auto z = t.tensor(to, 9, cols, false);
        t.check(z, 0, [&](const Twins::Base& b) {
          return gpu::Sum{{{b(x).data, from}, {b(x).data, from}}, 9 * cols, to, b(z).data};
        });
        t.check(z, 0, [&](const Twins::Base& b) { return backend::CastCall{b(x), b(z)}; });
        const auto ids = t.table(std::vector<std::int64_t>{8, -1, 0, 0});
        t.check(y, 0, [&](const Twins::Base& b) { return gpu::Embed{b.table<std::int64_t>(ids), b(x), b(y)}; });
      }
}

TEST_CASE("norm, activation, gate, quantize") {
  for (const DType type : types)
    for (const std::int64_t cols : {8, 100, 4096}) {
      Twins t;
      const auto a = t.tensor(type, 5, cols);
      const auto w = t.tensor(type, 1, cols);
      const auto y = t.tensor(type, 5, cols, false);
      t.check(y, 2 * ulp(type), [&](const Twins::Base& b) { return gpu::Normalize{b(a), {}, b(w), {}, b(y)}; });
      const auto wide = t.tensor(type, 5, 2 * cols);
      for (const Activation act : {Activation::relu, Activation::gelu, Activation::silu})
        t.check(y, 2 * ulp(type),
                [&](const Twins::Base& b) { return backend::ActivateCall{act, true, b(wide), b(y)}; });
      if (cols > 512) continue;
      const int k = static_cast<int>(std::min<std::int64_t>(cols, 8));
      const auto chosen = t.tensor(DType::f32, 5, 2 * k, false);
      t.check(chosen, 1e-5, [&](const Twins::Base& b) { return gpu::Gate{k, nullptr, b(a), b(chosen)}; });
    }
  Twins t;
  const auto x = t.tensor(DType::bf16, 5, 384);
  const auto y = t.tensor(DType::fp8, 5, 384 + 12, false);
  t.check(y, 0, [&](const Twins::Base& b) { return gpu::Quantize{b(x), b(y)}; });
}

TEST_CASE("products: cuBLASLt and grouped, batched and transposed") {
  for (const DType type : types) {
    Twins t;
    const Math math = natural_math(type);
    const auto x = t.tensor(type, 33, 2 * 64);
    const auto w = t.tensor(type, 2 * 64, 40);
    const auto y = t.tensor(type, 33, 2 * 40, false);
    // Sums of 64 terms: their order is cuBLAS's.
    const double near = type == DType::f32 ? 1e-5 : 2 * ulp(type);
    t.check(y, near, [&](const Twins::Base& b) { return gpu::Product{33, 40, 64, 2, math, false, b(x), b(w), b(y)}; });
    const auto table = t.tensor(type, 72, 128);
    const auto logits = t.tensor(type, 33, 72, false);
    t.check(logits, near,
            [&](const Twins::Base& b) { return gpu::Product{33, 72, 128, 1, math, true, b(x), b(table), b(logits)}; });
  }
}

TEST_CASE("virtual ranks: every strategy gives what the host gives") {
  std::mt19937 random(5);
  int ran = 0;
  for (const DType dtype : {DType::f32, DType::bf16})
    for (const Variant& v : variants()) {
      MoeBlock block;
      block.experts = 8;
      block.top_k = 2;
      block.expert = {48, true, false, Activation::silu};
      const Case c = moe_only(64, block, 4, 37, 1, dtype);
      const TableRouting routing = random_routing(1, 37, 8, 2, 1, 1, random);
      const auto plan = plan_of(c, routing, v.strategy, v.options);
      if (!plan) continue;
      CAPTURE(v.name);
      ++ran;
      const Inputs inputs{routing, 3};
      const Programs host = compute(*plan, inputs);
      const auto device = driver().open(0);
      gpu::VirtualRanks ranks(*plan, inputs, *device);
      ranks.run(60);
      for (int r = 0; r < plan->ranks; ++r)
        for (const BufferId b : plan->ops.back().writes) {
          const std::vector<float> expected = values(*host[static_cast<std::size_t>(r)], b);
          const std::vector<float> got = gpu::values(ranks.program(Rank(r)), b);
          REQUIRE(expected.size() == got.size());
          float largest = 0;
          float worst = 0;
          for (std::size_t i = 0; i < got.size(); ++i) {
            largest = std::max(largest, std::abs(expected[i]));
            worst = std::isnan(got[i]) ? INFINITY : std::max(worst, std::abs(expected[i] - got[i]));
          }
          CHECK(worst <= (dtype == DType::f32 ? 1e-4F : 4 * 0x1p-8F) * largest);
        }
    }
  CHECK(ran > 20);
}

int main(int argc, char** argv) {
  if (const std::string trouble = gpu::loaded().trouble; !trouble.empty()) {
    std::printf("skipped: %s\n", trouble.c_str());
    return 77;
  }
  std::printf("%s\n", driver().versions().c_str());
  doctest::Context context(argc, argv);
  return context.run();
}
