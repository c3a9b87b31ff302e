#include "backend/module.hpp"

#include <cstdlib>

namespace moesim::backend {

std::filesystem::path find_module(const char* name) {
  namespace fs = std::filesystem;
  std::error_code none;
  const fs::path program = fs::read_symlink("/proc/self/exe", none).parent_path();
  const char* given = std::getenv("MOESIM_MODULES");
  for (const fs::path& directory : {fs::path(given != nullptr ? given : ""), program, program / "../lib/moesim"})
    if (!directory.empty() && fs::exists(directory / name, none)) return directory / name;
  return {};
}

}  // namespace moesim::backend
