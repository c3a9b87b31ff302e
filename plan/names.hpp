// The spelling of every enumerator of a Plan, in files and in reports: one table per enum.
#pragma once

#include <array>
#include <optional>
#include <string_view>

#include "moesim/plan.hpp"

namespace moesim {

inline constexpr std::array<std::string_view, 7> buffer_role_names{
    "weight", "gradient", "optimizer", "kv_cache", "activation", "communication", "gathered"};
inline constexpr std::array<std::string_view, 2> location_names{"device", "host"};
inline constexpr std::array<std::string_view, 10> category_names{
    "attention", "gate", "dispatch", "experts", "combine", "dense", "embedding", "optimizer", "other", "parameters"};
inline constexpr std::array<std::string_view, 3> pass_names{"forward", "backward", "update"};
inline constexpr std::array<std::string_view, 9> collective_names{
    "all_to_all_v", "all_gather_v", "reduce_scatter_v",  "all_reduce",           "broadcast",
    "reduce",       "send_recv",    "sparse_all_gather", "sparse_reduce_scatter"};
inline constexpr std::array<std::string_view, 7> algorithm_names{"automatic", "direct",    "hierarchical", "ring",
                                                                 "tree",      "in_switch", "per_root"};
inline constexpr std::array<std::string_view, 15> elementwise_names{
    "norm",   "add_norm", "add",          "activation", "gated", "embedding",  "last_token",   "top_k",
    "rotary", "scale",    "sum_partials", "adam",       "cast",  "delta_rule", "cross_entropy"};
inline constexpr std::array<std::string_view, 5> row_order_names{"token", "by_slot", "by_source", "unique_by_rank",
                                                                 "unique_by_source"};
inline constexpr std::array<std::string_view, 3> gemm_form_names{"forward", "input_gradient", "weight_gradient"};
inline constexpr std::array<std::string_view, 3> copy_direction_names{"host_to_device", "device_to_host",
                                                                      "device_to_device"};
inline constexpr std::array<std::string_view, 3> activation_names{"relu", "gelu", "silu"};

template <std::size_t N, class Enum>
constexpr std::string_view name_of(const std::array<std::string_view, N>& names, Enum v) {
  return names.at(static_cast<std::size_t>(v));
}

template <class Enum, std::size_t N>
constexpr std::optional<Enum> parse_name(const std::array<std::string_view, N>& names, std::string_view s) {
  for (std::size_t i = 0; i < N; ++i)
    if (names[i] == s) return static_cast<Enum>(i);
  return std::nullopt;
}

}  // namespace moesim
