// The model families that read_config understands. Adding one is a function and a line in families.cpp.
#pragma once

#include <span>
#include <string_view>

#include "models/arch/config_fields.hpp"
#include "moesim/model.hpp"

namespace moesim::arch {

struct Family {
  std::string_view model_type;
  // Reports what is wrong with the fields to `fields`; the model means something only if there was nothing.
  Model (*read)(ConfigFields& fields);
};

std::span<const Family> families();

}  // namespace moesim::arch
