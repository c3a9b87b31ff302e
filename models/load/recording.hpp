// Recorded expert ids as read from a file: [layers, tokens, top_k].
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <variant>
#include <vector>

#include "moesim/routing.hpp"

namespace moesim::load {

// Ids in one byte where the model has at most 256 experts, else in two.
class ExpertIds {
 public:
  explicit ExpertIds(int experts) {
    if (experts > 256) ids_.emplace<std::vector<std::uint16_t>>();
  }
  void resize(std::size_t n) {
    std::visit([&](auto& ids) { ids.resize(n); }, ids_);
  }
  void set(std::size_t first, std::span<const std::int64_t> values) {
    std::visit(
        [&](auto& ids) {
          for (std::size_t i = 0; i < values.size(); ++i)
            ids[first + i] = static_cast<typename std::decay_t<decltype(ids)>::value_type>(values[i]);
        },
        ids_);
  }
  void get(std::size_t first, std::span<ExpertIndex> out) const {
    std::visit(
        [&](const auto& ids) {
          for (std::size_t i = 0; i < out.size(); ++i) out[i] = ids[first + i];
        },
        ids_);
  }

 private:
  std::variant<std::vector<std::uint8_t>, std::vector<std::uint16_t>> ids_;
};

struct Recording {
  int layers = 0;
  int top_k = 0;
  std::int64_t tokens = 0;
  ExpertIds ids;  // [layers, tokens, top_k]

  [[nodiscard]] std::size_t offset(int layer, std::int64_t token) const {
    return static_cast<std::size_t>((layer * tokens + token) * top_k);
  }
};

// Says what is wrong with one token's ids; empty where nothing is.
class TokenCheck {
 public:
  explicit TokenCheck(int experts) : last_seen_(static_cast<std::size_t>(experts)) {}
  std::string fault(std::span<const std::int64_t> ids);

 private:
  std::vector<std::uint64_t> last_seen_;  // [expert]: serial number of the last token that named it
  std::uint64_t serial_ = 0;
};

// Readers. `experts` is what the model has. Each throws InputError with every fault of the file (problems.hpp).
//   .npy    integers of any width, little endian, C order, [layers, tokens, top_k]; format versions 1 to 3
//   .jsonl  one object per token and layer, as vLLM's route loggers write: {"layer": 0, "topk_ids": [43, 5], ...}.
//           Objects whose "type" is not "route" are skipped. A layer's tokens are its records in file order; "req_id"
//           and "token_idx", where present, must agree between layers. "topk_weights" order the ids by falling weight.
// Either may be compressed with gzip.
Recording read_npy(const std::string& path, int experts);
Recording read_jsonl(const std::string& path, int experts);

// The longest run of tokens [begin, begin + length) that choose the same experts as each other at every layer.
struct Run {
  std::int64_t begin = 0;
  std::int64_t length = 0;
};
Run longest_repetition(const Recording& recording, std::int64_t begin, std::int64_t end);

}  // namespace moesim::load
