// A part of a routing as a routing of its own: a step of many, the window that a placement is planned on.
#pragma once

#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <utility>

#include "moesim/routing.hpp"

namespace moesim::load {

// Tokens [first, first + count) of `whole`, numbered from 0; with `count` beyond its end they start over at `first`.
class Part final : public Routing {
 public:
  Part(std::shared_ptr<const Routing> whole, std::int64_t first, std::int64_t count)
      : whole_(std::move(whole)), first_(first), count_(count) {}
  [[nodiscard]] int moe_layers() const override { return whole_->moe_layers(); }
  [[nodiscard]] int experts() const override { return whole_->experts(); }
  [[nodiscard]] int top_k() const override { return whole_->top_k(); }
  [[nodiscard]] std::int64_t tokens() const override { return count_; }
  [[nodiscard]] bool synthetic() const override { return whole_->synthetic(); }
  [[nodiscard]] std::string description() const override {
    return fmt::format("{}, from token {}", whole_->description(), first_);
  }
  void assign(int moe_layer, std::int64_t first, std::span<ExpertIndex> out) const override {
    const std::int64_t length = whole_->tokens() - first_;
    const auto k = static_cast<std::int64_t>(top_k());
    for (std::int64_t at = first % length; !out.empty(); at = 0) {
      const std::int64_t n = std::min(static_cast<std::int64_t>(out.size()) / k, length - at);
      whole_->assign(moe_layer, first_ + at, out.first(static_cast<std::size_t>(n * k)));
      out = out.subspan(static_cast<std::size_t>(n * k));
    }
  }

 private:
  std::shared_ptr<const Routing> whole_;
  std::int64_t first_;
  std::int64_t count_;
};

}  // namespace moesim::load
