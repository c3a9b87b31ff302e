#include "models/fit/formats.hpp"

#include <fmt/format.h>

#include <array>
#include <utility>
#include <vector>

namespace moesim::fit {

Format format_of(const std::string& name, const SourcePlace& place) {
  static const std::array<std::pair<std::string_view, Format>, 4> formats{{
      {"bfloat16", {}},
      {"float16", {DType::f16, Math::f16, 2, false}},
      {"fp8", {DType::fp8, Math::fp8, 1, true}},
      {"fp8_block", {DType::fp8, Math::fp8, 1, true}},
  }};
  std::vector<std::string_view> names;
  for (const auto& [known, format] : formats) {
    if (known == name) return format;
    names.push_back(known);
  }
  const std::string_view near = nearest_name(name, names);
  throw InputError(place, fmt::format("unknown dtype '{}'", name),
                   near.empty() ? "bfloat16, float16, fp8 or fp8_block" : fmt::format("did you mean {}?", near));
}

}  // namespace moesim::fit
