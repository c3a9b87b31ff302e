// What the model is asked to do in one step.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "moesim/dtype.hpp"

namespace moesim {

struct Workload {
  enum class Phase : std::uint8_t {
    encode,   // one pass of an encoder over its sequences
    prefill,  // a decoder reads its prompts and makes the first token: TTFT
    decode,   // one token per sequence: TPOT
    train,    // forward, backward and one optimizer step over all sequences
  };
  Phase phase = Phase::prefill;
  std::int64_t sequences = 0;        // over all GPUs
  std::int64_t sequence_length = 0;  // encode, prefill, train: tokens of one sequence; decode of an encoder-decoder
                                     // model: of the encoded input that cross attention reads
  std::int64_t kv_length = 0;        // decode: tokens in the cache, the new one included; prefill: 0 or a cached prefix
                                     // plus sequence_length
  DType activations = DType::bf16;
  DType kv_cache = DType::bf16;
  bool recompute = false;    // train: a layer's activations are computed again in the backward pass instead of kept
  std::optional<Math> math;  // of matrix products; default: the weights' own pipeline

  [[nodiscard]] std::int64_t new_tokens() const { return phase == Phase::decode ? 1 : sequence_length; }
  [[nodiscard]] std::int64_t context() const { return kv_length > 0 ? kv_length : sequence_length; }
};

// One line: "prefill, 1000 sequences of 120 tokens".
std::string to_string(const Workload& workload);

}  // namespace moesim
