// The arithmetic of every kernel, against the host's kernels (Eigen) and on paper.
#include "backend/host/kernels.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>

#include "backend/cuda/command.hpp"
#include "backend/numbers.hpp"
#include "tests/backend/cuda/processor.hpp"
#include "tests/backend/cuda/room.hpp"

using namespace moesim;
using namespace moesim::test;
using namespace moesim::backend;
namespace gpu = moesim::backend::gpu;

TEST_CASE("moving, adding up and converting rows gives the host's bytes") {
  std::mt19937 random(1);
  Scratch scratch;
  for (const DType from : types)
    for (const DType to : types)
      for (const std::int64_t cols : {1, 8, 13, 40}) {
        const Room x(from, 9, cols, random);
        RowMap map;
        map.begin = {0, 1, 1, 4, 6};
        map.from = {3, 0, 8, 8, 2, 1};
        for (const bool weighted : {false, true}) {
          if (weighted) map.weight = {0.5F, 0.25F, 1.5F, 0.125F, 1, 0.3F};
          const Room host(to, 4, cols);
          const Room ours(to, 4, cols);
          apply(map, x.tensor, host.tensor, scratch);
          // In two launches of uneven size.
          for (const auto& [first, rows] : {std::pair<std::int64_t, std::int64_t>{0, 1}, {1, 3}})
            carry_out(gpu::MoveRows{map.begin.data(), map.from.data(), weighted ? map.weight.data() : nullptr, first,
                                    rows, x.tensor, ours.tensor});
          CHECK(host.bytes == ours.bytes);
        }
        const Room y(to, 9, cols, random);
        const Room sum(to, 9, cols);
        const Room ours(to, 9, cols);
        add(std::vector<Tensor>{x.tensor, y.tensor, x.tensor}, sum.tensor, scratch);
        carry_out(gpu::Sum{
            {{x.tensor.data, from}, {y.tensor.data, to}, {x.tensor.data, from}}, 9 * cols, to, ours.tensor.data});
        CHECK(sum.bytes == ours.bytes);
        cast(x.tensor, sum.tensor, scratch);
        carry_out(backend::CastCall{x.tensor, ours.tensor});
        CHECK(sum.bytes == ours.bytes);
      }
}

TEST_CASE("embedding and last rows give the host's bytes") {
  std::mt19937 random(2);
  Scratch scratch;
  for (const DType t : types) {
    const Room table(t, 6, 24, random);
    const std::vector<std::int64_t> ids{5, -1, 0, 0};
    const Room host(t, 4, 24);
    const Room ours(t, 4, 24);
    embed(ids, table.tensor, host.tensor, scratch);
    carry_out(gpu::Embed{ids.data(), table.tensor, ours.tensor});
    CHECK(host.bytes == ours.bytes);
    const Room last_host(t, 2, 24);
    const Room last_ours(t, 2, 24);
    every_last(3, table.tensor, last_host.tensor);
    carry_out(backend::LastCall{3, table.tensor, last_ours.tensor});
    CHECK(last_host.bytes == last_ours.bytes);
  }
}

TEST_CASE("norms and activations are the host's but for the last place") {
  std::mt19937 random(3);
  Scratch scratch;
  for (const DType t : types)
    for (const std::int64_t cols : {8, 13, 64}) {
      const Room a(t, 5, cols, random);
      const Room b(t, 5, cols, random);
      const Room w(t, 1, cols, random);
      for (const Tensor* weight : {static_cast<const Tensor*>(nullptr), &w.tensor}) {
        const Room host(t, 5, cols);
        const Room ours(t, 5, cols);
        const Room host_sum(t, 5, cols);
        const Room our_sum(t, 5, cols);
        const Tensor given = weight != nullptr ? *weight : Tensor{};
        norm(a.tensor, weight, host.tensor, scratch);
        carry_out(gpu::Normalize{a.tensor, {}, given, {}, ours.tensor});
        close(host, ours, ulp(t));
        add_norm(a.tensor, b.tensor, weight, host_sum.tensor, host.tensor, scratch);
        carry_out(gpu::Normalize{a.tensor, b.tensor, given, our_sum.tensor, ours.tensor});
        CHECK(host_sum.bytes == our_sum.bytes);
        close(host, ours, ulp(t));
      }
      for (const Activation activation : {Activation::relu, Activation::gelu, Activation::silu})
        for (const bool gated : {false, true}) {
          const Room x(t, 5, gated ? 2 * cols : cols, random);
          const Room host(t, 5, cols);
          const Room ours(t, 5, cols);
          activate(activation, gated, x.tensor, host.tensor, scratch);
          carry_out(backend::ActivateCall{activation, gated, x.tensor, ours.tensor});
          close(host, ours, ulp(t));
        }
    }
}

TEST_CASE("the gate: by falling score, ties by id; weights are the softmax over all experts") {
  Room scores(DType::f32, 2, 4);
  const float s[] = {1, 3, 3, 0, -1, -1, -1, -1};
  std::copy(std::begin(s), std::end(s), reinterpret_cast<float*>(scores.bytes.data()));
  const Room y(DType::f32, 2, 6);
  carry_out(gpu::Gate{3, nullptr, scores.tensor, y.tensor});
  for (int i = 0; i < 3; ++i) {
    CHECK(y.at(0, i) == std::array{1.0F, 2.0F, 0.0F}[static_cast<std::size_t>(i)]);
    CHECK(y.at(1, i) == static_cast<float>(i));
    CHECK(y.at(1, 3 + i) == 0.25F);
  }
  // e^0 / (e^-2 + e^0 + e^0 + e^-3)
  const double all = std::exp(-2.0) + 2 + std::exp(-3.0);
  CHECK(y.at(0, 3) == doctest::Approx(1 / all).epsilon(1e-6));
  CHECK(y.at(0, 5) == doctest::Approx(std::exp(-2.0) / all).epsilon(1e-6));

  // A choice is written as it is, and a score that is not finite poisons its row alone.
  const std::vector<float> choice{3, 2, 1, 0.5F, 0.25F, 0.125F, 0, 1, 2, 0.5F, 0.25F, 0.125F};
  reinterpret_cast<float*>(scores.bytes.data())[6] = NAN;
  carry_out(gpu::Gate{3, choice.data(), scores.tensor, y.tensor});
  for (int i = 0; i < 6; ++i) CHECK(y.at(0, i) == choice[static_cast<std::size_t>(i)]);
  for (int i = 0; i < 6; ++i) CHECK(std::isnan(y.at(1, i)));
}

TEST_CASE("the gate chooses as a sort does") {
  std::mt19937 random(4);
  for (int draw = 0; draw < 200; ++draw) {
    const int experts = std::uniform_int_distribution<int>(1, 300)(random);
    const int k = std::uniform_int_distribution<int>(1, std::min(experts, 12))(random);
    const Room scores(types[draw % 3], 1, experts, random);  // 16-bit scores tie often
    const Room y(DType::f32, 1, 2 * k);
    carry_out(gpu::Gate{k, nullptr, scores.tensor, y.tensor});
    std::vector<int> order(static_cast<std::size_t>(experts));
    for (int e = 0; e < experts; ++e) order[static_cast<std::size_t>(e)] = e;
    std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return scores.at(0, a) > scores.at(0, b); });
    for (int i = 0; i < k; ++i) CHECK(static_cast<int>(y.at(0, i)) == order[static_cast<std::size_t>(i)]);
  }
}

TEST_CASE("quantize: within half a step of 448ths of the block's largest, scales behind the columns") {
  std::mt19937 random(5);
  for (const std::int64_t cols : {128, 200, 384}) {
    const std::int64_t blocks = (cols + 127) / 128;
    const Room x(DType::bf16, 3, cols, random);
    const Room y(DType::fp8, 3, cols + 4 * blocks);
    carry_out(gpu::Quantize{x.tensor, y.tensor});
    for (std::int64_t r = 0; r < 3; ++r)
      for (std::int64_t b = 0; b < blocks; ++b) {
        const auto scale = gpu::read_as<float>(y.tensor.at(r) + cols + 4 * b);
        float largest = 0;
        for (std::int64_t c = 128 * b; c < std::min(cols, 128 * b + 128); ++c) {
          largest = std::max(largest, std::abs(x.at(r, c)));
          // A number in [2^e, 2^(e + 1)) has steps of 2^(e - 3): half of one is at most 1/16 of it.
          CHECK(std::abs(y.at(r, c) * scale - x.at(r, c)) <=
                std::max(std::abs(x.at(r, c)) / 16, scale * 0x1p-10F) * 1.001F);
        }
        CHECK(scale == largest / 448.0F);
      }
  }
  Room zero(DType::bf16, 1, 128);
  std::fill(zero.bytes.begin(), zero.bytes.end(), std::byte{0});
  const Room y(DType::fp8, 1, 132);
  carry_out(gpu::Quantize{zero.tensor, y.tensor});
  CHECK(y.at(0, 5) == 0);
}

TEST_CASE("weights made on the device are the host's") {
  for (const DType t : types) {
    const Room ours(t, 6, 5);
    const std::vector<std::int64_t> experts{4, 1};
    const std::vector<std::int64_t> cols{3, 4, 9, 10, 0};
    const LogicalMatrix any(7, "up", 0, 20);
    carry_out(gpu::Fill{LogicalMatrix::name_key(7, "up"), any.scale(), any.offset(), experts.data(), 3, 2, cols.data(),
                        ours.tensor});
    for (std::int64_t r = 0; r < 6; ++r)
      for (std::int64_t c = 0; c < 5; ++c) {
        const LogicalMatrix m(7, "up", experts[static_cast<std::size_t>(r / 3)], 20);
        const float v = m.at(2 + r % 3, cols[static_cast<std::size_t>(c)]);
        std::byte raw[4];
        from_float(&v, t, 1, raw);
        CHECK(ours.at(r, c) == gpu::load(raw, t, 0));
      }
  }
}
