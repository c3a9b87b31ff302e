// Commands on the processor: the bodies of the kernels with a team of one lane, products as their definition.
#include <algorithm>
#include <stdexcept>

#include "backend/cuda/attention_gradient_bodies.hpp"
#include "backend/cuda/gradient_bodies.hpp"
#include "tests/backend/cuda/processor.hpp"

namespace moesim::test {

using namespace backend;
using namespace backend::gpu;

namespace {

struct OneLane {
  [[nodiscard]] static int lane() { return 0; }
  [[nodiscard]] static int lanes() { return 1; }
  [[nodiscard]] static float sum(float v) { return v; }
  [[nodiscard]] static float most(float v) { return v; }
  [[nodiscard]] static Score best(Score s) { return s; }
  static void barrier() {}
};
constexpr OneLane lane;

template <class Body>
void rows(std::int64_t n, const Body& body) {
  for (std::int64_t i = 0; i < n; ++i) body(i);
}

struct CarryOut {
  void operator()(const Product& c) const {
    const std::int64_t part = c.x.cols / c.batch;
    for (std::int64_t b = 0; b < c.batch; ++b)
      for (std::int64_t i = 0; i < c.m; ++i)
        for (std::int64_t j = 0; j < c.n; ++j) {
          float sum = c.adds ? load(c.y.at(i, b * c.n), c.y.dtype, j) : 0;
          for (std::int64_t k = 0; k < c.k; ++k)
            sum += (c.x_transposed ? load(c.x.at(k), c.x.dtype, i) : load(c.x.at(i, b * part), c.x.dtype, k)) *
                   (c.transposed ? load(c.w.at(j), c.w.dtype, k) : load(c.w.at(b * c.k + k), c.w.dtype, j));
          store(c.y.at(i, b * c.n), c.y.dtype, j, sum);
        }
  }
  void operator()(const GroupedProduct& c) const {
    if (c.groups.empty()) throw std::logic_error("a grouped product without groups");
    for (const GroupedProduct::Group& g : c.groups) {
      if (g.m == 0) throw std::logic_error("an empty group");
      (*this)(product_of(c, g));
    }
  }
  void operator()(const MoveRows& c) const {
    rows(c.rows, [&](std::int64_t i) { move_row(lane, c, c.first + i); });
  }
  void operator()(const Normalize& c) const {
    rows(c.y.rows, [&](std::int64_t i) { normalize_row(lane, c, i); });
  }
  void operator()(const Sum& c) const {
    const auto n = static_cast<int>(c.terms.size());
    for (std::int64_t i = 0; i < c.elements; ++i) sum_some(c.terms.data(), n, c.y, c.dtype, i, 1);
  }
  void operator()(const ActivateCall& c) const {
    rows(c.y.rows, [&](std::int64_t i) { activate_row(lane, c, i); });
  }
  void operator()(const CastCall& c) const {
    rows(c.y.rows, [&](std::int64_t i) { convert_row(lane, c, i); });
  }
  void operator()(const Quantize& c) const {
    rows(c.y.rows, [&](std::int64_t i) {
      for (std::int64_t b = 0; b * 128 < c.x.cols; ++b) quantize_block(lane, c, i, b);
    });
  }
  void operator()(const Embed& c) const {
    rows(c.y.rows, [&](std::int64_t i) { embed_row(lane, c, i); });
  }
  void operator()(const LastCall& c) const {
    rows(c.y.rows, [&](std::int64_t i) { last_row(lane, c, i); });
  }
  void operator()(const Gate& c) const {
    rows(c.y.rows, [&](std::int64_t i) { gate_row(lane, c, i); });
  }
  void operator()(const Attend& c) const {
    std::vector<float> room(static_cast<std::size_t>(attend_room(c.shape)));
    rows(c.o.rows, [&](std::int64_t i) {
      for (std::int64_t h = 0; h < c.shape.heads; ++h) attend_query(lane, c, i, h, room.data());
    });
  }
  void operator()(const Rotate& c) const {
    rows(c.y.rows, [&](std::int64_t i) { rotate_row(lane, c, i); });
  }
  void operator()(const StoreKeys& c) const {
    rows(c.x.rows, [&](std::int64_t i) { store_keys_row(lane, c, i); });
  }
  void operator()(const RotateLatent& c) const {
    rows(c.y.rows, [&](std::int64_t i) { rotate_latent_row(lane, c, i); });
  }
  void operator()(const Fill& c) const {
    rows(c.y.rows, [&](std::int64_t i) { fill_row(lane, c, i); });
  }
  void operator()(const Nothing&) const {}
  void operator()(const NormGradient& c) const {
    rows(c.parts.rows, [&](std::int64_t i) { norm_gradient_part(lane, c, i); });
  }
  void operator()(const ActivationGradientCall& c) const {
    rows(c.dy.rows, [&](std::int64_t i) { activation_gradient_row(lane, c, i); });
  }
  void operator()(const CrossEntropy& c) const {
    rows(c.logits.rows, [&](std::int64_t i) { cross_entropy_row(lane, c, i); });
  }
  void operator()(const GateWeights& c) const {
    rows(c.y.rows, [&](std::int64_t i) { gate_weights_row(lane, c, i); });
  }
  void operator()(const GateGradient& c) const {
    rows(c.dscores.rows, [&](std::int64_t i) { gate_gradient_row(lane, c, i); });
  }
  void operator()(const CombineGradient& c) const {
    rows(c.dcopies.rows, [&](std::int64_t i) { combine_gradient_row(lane, c, i); });
  }
  void operator()(const AttendGradient& c) const {
    std::vector<float> room(static_cast<std::size_t>(std::max(query_room(c.shape), key_room(c.shape))));
    rows(c.x.rows * c.shape.heads,
         [&](std::int64_t i) { attend_gradient_query(lane, c, i / c.shape.heads, i % c.shape.heads, room.data()); });
    rows(c.x.rows * c.shape.kv_heads, [&](std::int64_t i) {
      attend_gradient_key(lane, c, i / c.shape.kv_heads, i % c.shape.kv_heads, room.data());
    });
  }
  void operator()(const AdamStep& c) const {
    rows(c.weight.rows, [&](std::int64_t i) { adam_row(lane, c, i); });
  }
  void operator()(const StartState& c) const {
    rows(c.weight.rows, [&](std::int64_t i) { start_state_row(lane, c, i); });
  }
  void operator()(const CopyBytes& c) const { std::copy_n(c.from, c.bytes, c.to); }
  void operator()(const SetBytes& c) const { std::fill_n(c.to, c.bytes, static_cast<std::byte>(c.value)); }
  void operator()(const Exchange&) const { throw std::logic_error("an exchange is not one device's"); }
};

}  // namespace

void carry_out(const Command& command) { std::visit(CarryOut{}, command); }

}  // namespace moesim::test
