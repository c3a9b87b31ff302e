#include "tests/scratch.hpp"

#include <unistd.h>

#include <filesystem>

namespace moesim::test {

std::string scratch(const std::string& name) {
  static const struct Directory {
    std::filesystem::path path = std::filesystem::temp_directory_path() / ("moesim_test." + std::to_string(::getpid()));
    Directory() { std::filesystem::create_directories(path); }
    ~Directory() {
      std::error_code ignored;
      std::filesystem::remove_all(path, ignored);
    }
  } directory;
  return (directory.path / name).string();
}

}  // namespace moesim::test
