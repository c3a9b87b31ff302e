#include "models/load/trace.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cassert>
#include <filesystem>
#include <numeric>
#include <string_view>
#include <utility>

#include "models/load/counter_rng.hpp"
#include "models/load/counts.hpp"
#include "models/load/recording.hpp"
#include "models/load/systematic.hpp"

namespace moesim::load {
namespace {

std::string_view without_gz(std::string_view path) {
  if (path.ends_with(".gz")) path.remove_suffix(3);
  return path;
}

std::string name_of(const std::string& path) { return std::filesystem::path(path).filename().string(); }

// Which recorded layer stands for each MoE layer.
std::vector<int> map_layers(int recorded, const TraceSpec& spec, Problems& problems, std::vector<std::string>& notes) {
  const int needed = spec.shape.moe_layers == 0 ? recorded : spec.shape.moe_layers;
  std::vector<int> out(static_cast<std::size_t>(needed));
  for (int l = 0; l < needed; ++l) out[static_cast<std::size_t>(l)] = l % recorded;
  if (recorded == needed) return out;
  if (spec.layers == LayerMap::exact)
    problems.add(0, 0, fmt::format("has routing of {} layers, the model has {} MoE layers", recorded, needed),
                 "layers = \"cycle\" lets layer l of the model use layer l mod the recorded number");
  notes.push_back(recorded < needed
                      ? fmt::format("{} recorded layers stand for {} MoE layers in turn", recorded, needed)
                      : fmt::format("only the first {} of {} recorded layers are used", needed, recorded));
  return out;
}

class TokenTrace final : public RecordedRouting {
 public:
  TokenTrace(const TraceSpec& spec, Recording recording)
      : name_(name_of(spec.path)), experts_(spec.shape.experts), recording_(std::move(recording)) {
    Problems problems(spec.path);
    if (spec.shape.top_k != 0 && spec.shape.top_k != recording_.top_k)
      problems.add(
          0, 0,
          fmt::format("has {} expert ids per token, the model uses top_k = {}", recording_.top_k, spec.shape.top_k));
    layer_of_ = map_layers(recording_.layers, spec, problems, notes_);
    const auto [begin, end] = bounds(spec.window, recording_.tokens, "tokens", problems);
    begin_ = begin;
    length_ = end - begin;
    tokens_ = spec.shape.tokens == 0 ? length_ : spec.shape.tokens;
    if (tokens_ > length_ && !spec.repeat)
      problems.add(0, 0, fmt::format("has {} tokens in the window, the workload needs {}", length_, tokens_),
                   "repeat = true starts over at the end of the window");
    problems.throw_if_any();
    if (tokens_ > length_)
      notes_.push_back(fmt::format("{} recorded tokens are repeated {:.1f} times", length_,
                                   static_cast<double>(tokens_) / static_cast<double>(length_)));
    note_repetition();
  }

  [[nodiscard]] int moe_layers() const override { return static_cast<int>(layer_of_.size()); }
  [[nodiscard]] int experts() const override { return experts_; }
  [[nodiscard]] int top_k() const override { return recording_.top_k; }
  [[nodiscard]] std::int64_t tokens() const override { return tokens_; }
  [[nodiscard]] std::string description() const override {
    return fmt::format("recorded {}: {} layers, tokens {} to {}", name_, recording_.layers, begin_,
                       begin_ + length_ - 1);
  }

  void assign(int moe_layer, std::int64_t first, std::span<ExpertIndex> out) const override {
    assert(moe_layer >= 0 && moe_layer < moe_layers());
    const auto k = static_cast<std::size_t>(recording_.top_k);
    const int layer = layer_of_[static_cast<std::size_t>(moe_layer)];
    std::int64_t at = first % length_;
    while (!out.empty()) {
      const std::size_t part = std::min(out.size(), static_cast<std::size_t>(length_ - at) * k);
      recording_.ids.get(recording_.offset(layer, begin_ + at), out.first(part));
      out = out.subspan(part);
      at = 0;
    }
  }

 private:
  // Loggers also write the warm-up, in which every token is the same padding token.
  void note_repetition() {
    const Run run = longest_repetition(recording_, begin_, begin_ + length_);
    if (run.length < 64 || run.length < length_ / 50) return;
    std::vector<ExpertIndex> ids(static_cast<std::size_t>(recording_.top_k));
    recording_.ids.get(recording_.offset(0, run.begin), ids);
    notes_.push_back(
        fmt::format("{} of {} tokens in a row (from token {}) choose the same experts at every layer ({} at the "
                    "first): they look like "
                    "a warm-up; a window from token {} leaves them out",
                    run.length, length_, run.begin, fmt::join(ids, " "), run.begin + run.length));
  }

  std::string name_;
  int experts_;
  Recording recording_;
  std::vector<int> layer_of_;  // [moe layer]
  std::int64_t begin_ = 0;     // of the window
  std::int64_t length_ = 0;
  std::int64_t tokens_ = 0;
};

class CountTrace final : public RecordedRouting {
 public:
  CountTrace(const TraceSpec& spec, const RecordedCounts& counts)
      : name_(name_of(spec.path)), shape_(spec.shape), iterations_(counts.iterations) {
    Problems problems(spec.path);
    recorded_layers_ = counts.layers.size();
    const std::vector<int> layer_of = map_layers(static_cast<int>(recorded_layers_), spec, problems, notes_);
    shape_.moe_layers = static_cast<int>(layer_of.size());
    shape_.expert_groups = shape_.groups_per_token = 1;
    if (shape_.top_k == 0) shape_.top_k = 1;
    std::vector<std::int64_t> copies;
    for (std::size_t l = 0; l < counts.tokens.size(); ++l) {
      copies.push_back(std::accumulate(counts.tokens[l].begin(), counts.tokens[l].end(), std::int64_t{0}));
      for (std::size_t e = 0; e < counts.tokens[l].size(); ++e)
        if (counts.tokens[l][e] > copies[l] / shape_.top_k)
          problems.add(
              0, 0,
              fmt::format("expert {} of layer {} has {} of {} token copies; with top_k = {} a token uses it at most "
                          "once, so it has at most {}",
                          e, counts.layers[l], counts.tokens[l][e], copies[l], shape_.top_k, copies[l] / shape_.top_k));
    }
    problems.throw_if_any();
    const auto [least, most] = std::minmax_element(copies.begin(), copies.end());
    if (shape_.tokens == 0) shape_.tokens = std::max<std::int64_t>(1, *most / shape_.top_k);
    if (*least != *most || *most != shape_.tokens * shape_.top_k)
      notes_.push_back(fmt::format("counts of {} to {} token copies per layer are scaled to {}", *least, *most,
                                   shape_.tokens * shape_.top_k));
    if (iterations_ > 1) notes_.push_back(fmt::format("counts are the sum of {} iterations", iterations_));

    // Layers that share a record share its counts, not its tokens.
    const std::vector<std::int64_t> multipliers = lattice_multipliers(shape_.tokens, shape_.moe_layers, spec.seed);
    for (int layer = 0; layer < shape_.moe_layers; ++layer) {
      const auto l = static_cast<std::size_t>(layer);
      const auto r = static_cast<std::size_t>(layer_of[l]);
      std::vector<double> inclusion(counts.tokens[r].begin(), counts.tokens[r].end());
      for (double& x : inclusion) x = std::min(1.0, x * shape_.top_k / static_cast<double>(copies[r]));
      samplers_.push_back(std::make_unique<SystematicSampler>(Inclusion{{1.0}, inclusion}, shape_, multipliers[l],
                                                              key_of(spec.seed, Purpose::lines, layer)));
    }
  }

  [[nodiscard]] int moe_layers() const override { return shape_.moe_layers; }
  [[nodiscard]] int experts() const override { return shape_.experts; }
  [[nodiscard]] int top_k() const override { return shape_.top_k; }
  [[nodiscard]] std::int64_t tokens() const override { return shape_.tokens; }
  [[nodiscard]] std::string description() const override {
    return fmt::format("recorded counts {}: {} layers, {} iterations, spread evenly over the tokens", name_,
                       recorded_layers_, iterations_);
  }
  void assign(int moe_layer, std::int64_t first, std::span<ExpertIndex> out) const override {
    assert(moe_layer >= 0 && moe_layer < moe_layers());
    samplers_[static_cast<std::size_t>(moe_layer)]->assign(first, out);
  }

 private:
  std::string name_;
  RoutingShape shape_;
  std::int64_t iterations_;
  std::size_t recorded_layers_ = 0;
  std::vector<std::unique_ptr<SystematicSampler>> samplers_;  // [moe layer]
};

}  // namespace

std::unique_ptr<RecordedRouting> open_trace(const TraceSpec& spec) {
  const SourcePlace place{spec.path, 0, 0};
  const int experts = spec.shape.experts;
  if (experts < 1 || experts > 65'535)
    throw InputError(place, fmt::format("cannot be read for a model with {} experts", experts));
  const std::string_view kind = without_gz(spec.path);
  if (kind.ends_with(".npy")) return std::make_unique<TokenTrace>(spec, read_npy(spec.path, experts));
  if (kind.ends_with(".jsonl")) return std::make_unique<TokenTrace>(spec, read_jsonl(spec.path, experts));
  if (kind.ends_with(".csv")) return std::make_unique<CountTrace>(spec, read_counts(spec.path, experts, spec.window));
  throw InputError(place, "is no kind of recorded routing that is known",
                   "name it .npy, .jsonl or .csv (each also .gz)");
}

}  // namespace moesim::load
