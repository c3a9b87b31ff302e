// The arithmetic of every kernel, written once: a team of lanes does one row (or one query). On the GPU the team is a
// warp or a block (driver/team.cuh); in tests it is a single lane of the processor.
//
// A team has lane(), lanes(), sum(float), most(float), best(Score), barrier(); all its lanes call a body together.
#pragma once

#include <cmath>
#include <limits>

#include "backend/cuda/command.hpp"
#include "backend/cuda/number.hpp"
#include "backend/hash.hpp"

namespace moesim::backend::gpu {

inline constexpr float norm_epsilon = 1e-6F;

struct Score {
  float value = 0;
  int id = 0;
};
// The order of the gate: falling score, ties by id.
MOESIM_BOTH inline bool before(const Score& a, const Score& b) {
  return a.value > b.value || (a.value == b.value && a.id < b.id);
}

MOESIM_BOTH inline float fused(float a, float b, float c) {
#ifdef __CUDA_ARCH__
  return __fmaf_rn(a, b, c);
#else
  return a * b + c;
#endif
}

// Packs can be read where every row begins at a multiple of them.
MOESIM_BOTH inline bool packed(std::int64_t cols) { return cols % pack == 0; }

// body(i, n): elements [i, i + n) of a row, n = pack where `whole`, else 1.
template <class Team, class Body>
MOESIM_BOTH void for_elements(const Team& team, std::int64_t n, bool whole, const Body& body) {
  if (whole) {
    for (std::int64_t i = static_cast<std::int64_t>(team.lane()) * pack; i < n;
         i += static_cast<std::int64_t>(team.lanes()) * pack)
      body(i, pack);
  } else {
    for (std::int64_t i = team.lane(); i < n; i += team.lanes()) body(i, 1);
  }
}
MOESIM_BOTH inline Pack load_some(const std::byte* from, DType t, std::int64_t i, int n) {
  if (n == pack) return load_pack(from, t, i);
  Pack out{};
  out.v[0] = load(from, t, i);
  return out;
}
MOESIM_BOTH inline void store_some(std::byte* to, DType t, std::int64_t i, int n, const Pack& p) {
  if (n == pack)
    store_pack(to, t, i, p);
  else
    store(to, t, i, p.v[0]);
}

template <class Team>
MOESIM_BOTH void copy_row(const Team& team, const std::byte* from, std::byte* to, std::int64_t bytes) {
  if (bytes % 16 == 0) {
    for (std::int64_t i = static_cast<std::int64_t>(team.lane()) * 16; i < bytes;
         i += static_cast<std::int64_t>(team.lanes()) * 16)
      write_as(to + i, read_as<Wide>(from + i));
  } else {
    for (std::int64_t i = team.lane(); i < bytes; i += team.lanes()) to[i] = from[i];
  }
}

template <class Team>
MOESIM_BOTH void zero_row(const Team& team, std::byte* to, std::int64_t bytes) {
  if (bytes % 16 == 0) {
    for (std::int64_t i = static_cast<std::int64_t>(team.lane()) * 16; i < bytes;
         i += static_cast<std::int64_t>(team.lanes()) * 16)
      write_as(to + i, Wide{});
  } else {
    for (std::int64_t i = team.lane(); i < bytes; i += team.lanes()) to[i] = std::byte{0};
  }
}

template <class Team>
MOESIM_BOTH void move_row(const Team& team, const MoveRows& c, std::int64_t i) {
  const std::int64_t first = c.begin[i];
  const std::int64_t last = c.begin[i + 1];
  if (first == last) return zero_row(team, c.y.at(i), c.y.cols * c.y.element_bytes());
  if (last == first + 1 && c.weight == nullptr && c.x.dtype == c.y.dtype)
    return copy_row(team, c.x.at(c.from[first]), c.y.at(i), c.y.cols * c.y.element_bytes());
  for_elements(team, c.y.cols, packed(c.y.cols), [&](std::int64_t e, int n) {
    Pack sum{};
    for (std::int64_t t = first; t < last; ++t) {
      const Pack term = load_some(c.x.at(c.from[t]), c.x.dtype, e, n);
      const float w = c.weight == nullptr ? 1.0F : c.weight[c.gate == nullptr ? t : c.gate[t]];
      for (int j = 0; j < n; ++j) sum.v[j] += w * term.v[j];
    }
    store_some(c.y.at(i), c.y.dtype, e, n, sum);
  });
}

template <class Team>
MOESIM_BOTH void embed_row(const Team& team, const Embed& c, std::int64_t i) {
  const std::int64_t id = c.ids[i];
  if (id < 0) return zero_row(team, c.y.at(i), c.y.cols * c.y.element_bytes());
  for_elements(team, c.y.cols, packed(c.y.cols), [&](std::int64_t e, int n) {
    store_some(c.y.at(i), c.y.dtype, e, n, load_some(c.table.at(id), c.table.dtype, e, n));
  });
}

template <class Team>
MOESIM_BOTH void last_row(const Team& team, const LastCall& c, std::int64_t i) {
  copy_row(team, c.x.at(i * c.every + c.every - 1), c.y.at(i), c.y.cols * c.y.element_bytes());
}

template <class Team>
MOESIM_BOTH void normalize_row(const Team& team, const Normalize& c, std::int64_t i) {
  const std::int64_t cols = c.y.cols;
  const bool whole = packed(cols);
  // What is stored is what is normalized.
  const Tensor& from = c.sum.data != nullptr ? c.sum : c.a;
  float squares = 0;
  for_elements(team, cols, whole, [&](std::int64_t e, int n) {
    Pack x = load_some(c.a.at(i), c.a.dtype, e, n);
    if (c.b.data != nullptr) {
      const Pack b = load_some(c.b.at(i), c.b.dtype, e, n);
      for (int j = 0; j < n; ++j) x.v[j] += b.v[j];
    }
    if (c.sum.data != nullptr) {
      store_some(c.sum.at(i), c.sum.dtype, e, n, x);
      x = load_some(c.sum.at(i), c.sum.dtype, e, n);
    }
    for (int j = 0; j < n; ++j) squares += x.v[j] * x.v[j];
  });
  const float inverse = 1.0F / sqrtf(team.sum(squares) / static_cast<float>(cols) + norm_epsilon);
  for_elements(team, cols, whole, [&](std::int64_t e, int n) {
    Pack x = load_some(from.at(i), from.dtype, e, n);
    const Pack w = c.w.data != nullptr ? load_some(c.w.data, c.w.dtype, e, n) : Pack{};
    for (int j = 0; j < n; ++j) x.v[j] *= inverse * (c.w.data != nullptr ? w.v[j] : 1.0F);
    store_some(c.y.at(i), c.y.dtype, e, n, x);
  });
}

MOESIM_BOTH inline float activated(Activation a, float x) {
  switch (a) {
    case Activation::relu:
      return x > 0 ? x : 0;
    case Activation::gelu:
      return x * 0.5F * (1.0F + erff(x * 0.70710678F));
    case Activation::silu:
      return x / (1.0F + expf(-x));
  }
  return x;
}

template <class Team>
MOESIM_BOTH void activate_row(const Team& team, const ActivateCall& c, std::int64_t i) {
  const std::int64_t cols = c.y.cols;
  for_elements(team, cols, packed(cols), [&](std::int64_t e, int n) {
    Pack x = load_some(c.x.at(i), c.x.dtype, e, n);
    for (int j = 0; j < n; ++j) x.v[j] = activated(c.activation, x.v[j]);
    if (c.gated) {
      const Pack up = load_some(c.x.at(i), c.x.dtype, cols + e, n);
      for (int j = 0; j < n; ++j) x.v[j] *= up.v[j];
    }
    store_some(c.y.at(i), c.y.dtype, e, n, x);
  });
}

template <class Team>
MOESIM_BOTH void convert_row(const Team& team, const CastCall& c, std::int64_t i) {
  for_elements(team, c.y.cols, packed(c.y.cols), [&](std::int64_t e, int n) {
    store_some(c.y.at(i), c.y.dtype, e, n, load_some(c.x.at(i), c.x.dtype, e, n));
  });
}

// One block of 128 columns: in packs, where the fp8 row has place for them too.
MOESIM_BOTH inline bool packed(const Quantize& c) { return packed(c.x.cols) && packed(c.y.cols); }
template <class Team>
MOESIM_BOTH void quantize_block(const Team& team, const Quantize& c, std::int64_t i, std::int64_t block) {
  const std::int64_t first = block * 128;
  const std::int64_t cols = c.x.cols - first < 128 ? c.x.cols - first : 128;
  const bool whole = packed(c);
  float most = 0;
  for_elements(team, cols, whole, [&](std::int64_t e, int n) {
    const Pack x = load_some(c.x.at(i), c.x.dtype, first + e, n);
    for (int j = 0; j < n; ++j) most = fmaxf(most, fabsf(x.v[j]));
  });
  most = team.most(most);
  const float scale = most > 0 ? most / 448.0F : 1.0F;
  for_elements(team, cols, whole, [&](std::int64_t e, int n) {
    Pack x = load_some(c.x.at(i), c.x.dtype, first + e, n);
    for (int j = 0; j < n; ++j) x.v[j] /= scale;
    store_some(c.y.at(i), DType::fp8, first + e, n, x);
  });
  if (team.lane() == 0) {
    const auto word = bits_as<std::uint32_t>(scale);
    for (int b = 0; b < 4; ++b) c.y.at(i)[c.x.cols + 4 * block + b] = static_cast<std::byte>((word >> (8 * b)) & 0xffU);
  }
}

// Elements [i, i + n) of a sum, n = pack or 1.
MOESIM_BOTH inline void sum_some(const Sum::Term* term, int terms, std::byte* y, DType dtype, std::int64_t i, int n) {
  Pack sum{};
  for (int t = 0; t < terms; ++t) {
    const Pack x = load_some(term[t].data, term[t].dtype, i, n);
    for (int j = 0; j < n; ++j) sum.v[j] += x.v[j];
  }
  store_some(y, dtype, i, n, sum);
}

struct Softmax {
  float most = 0;
  float sum = 0;  // of exp(v - most)
  [[nodiscard]] MOESIM_BOTH float at(float v) const { return expf(v - most) / sum; }
};

template <class Team>
MOESIM_BOTH void gate_row(const Team& team, const Gate& c, std::int64_t i) {
  const std::byte* scores = c.scores.at(i);
  const auto experts = static_cast<int>(c.scores.cols);
  Score last{std::numeric_limits<float>::infinity(), -1};  // before all that follow
  float largest = 0;
  float denominator = 0;
  for (int n = 0; n < c.k; ++n) {
    Score mine{-std::numeric_limits<float>::infinity(), experts};
    for (int e = team.lane(); e < experts; e += team.lanes()) {
      const Score s{load(scores, c.scores.dtype, e), e};
      if (before(last, s) && before(s, mine)) mine = s;
    }
    last = team.best(mine);
    if (n == 0) {
      largest = last.value;
      float sum = 0;
      for (int e = team.lane(); e < experts; e += team.lanes()) sum += expf(load(scores, c.scores.dtype, e) - largest);
      denominator = team.sum(sum);
    }
    if (team.lane() != 0) continue;
    float id = static_cast<float>(last.id);
    float weight = expf(last.value - largest) / denominator;
    if (c.choice != nullptr) {
      const float* choice = c.choice + i * 2 * c.k;
      weight = choice[c.k + n] + 0.0F * weight;
      id = choice[n] + 0.0F * weight;
    }
    store(c.y.at(i), c.y.dtype, n, id);
    store(c.y.at(i), c.y.dtype, c.k + n, weight);
  }
}

template <class Team>
MOESIM_BOTH void fill_row(const Team& team, const Fill& c, std::int64_t i) {
  const std::int64_t matrix = c.matrix_rows > 0 ? i / c.matrix_rows : 0;
  const std::int64_t row = c.first_row + (c.matrix_rows > 0 ? i % c.matrix_rows : i);
  const std::uint64_t key = hash::of_matrix(c.name, c.experts != nullptr ? c.experts[matrix] : matrix);
  for (std::int64_t e = team.lane(); e < c.y.cols; e += team.lanes())
    store(c.y.at(i), c.y.dtype, e, c.offset + c.scale * hash::number(key, row, c.cols[e]));
}

}  // namespace moesim::backend::gpu
