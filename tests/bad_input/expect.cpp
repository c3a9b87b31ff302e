#include "tests/bad_input/expect.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>

namespace moesim::test {

std::vector<Expected> expected_faults(const std::string& path) {
  constexpr std::string_view mark = "# expect: ";
  std::vector<Expected> out;
  std::ifstream in(path);
  for (std::string line; std::getline(in, line);) {
    const std::size_t at = line.find(mark);
    if (at == std::string::npos) continue;
    const std::string text = line.substr(at + mark.size());
    const std::size_t place = text.find(": ");
    REQUIRE_MESSAGE(place != std::string::npos, path << ": not an expectation: " << text);
    const std::size_t hint = text.find(" | ", place);
    out.push_back({text.substr(0, place), text.substr(place + 2, hint == std::string::npos ? hint : hint - place - 2),
                   hint == std::string::npos ? "" : text.substr(hint + 3)});
  }
  return out;
}

std::vector<std::string> bad_files(const std::string& directory) {
  std::vector<std::string> out;
  for (const auto& entry :
       std::filesystem::directory_iterator(std::string(MOESIM_TESTS_DIR) + "/bad_input/" + directory))
    if (entry.is_regular_file() && entry.path().extension() == ".toml") out.push_back(entry.path().string());
  std::sort(out.begin(), out.end());
  return out;
}

void check_faults(const std::string& path, const std::function<void(const std::string&)>& read) {
  const std::vector<Expected> expected = expected_faults(path);
  std::vector<Diagnostic> got;
  try {
    read(path);
  } catch (const InputError& e) {
    got = e.diagnostics();
  }
  bool good = !expected.empty() && got.size() == expected.size();
  std::string shown;
  for (std::size_t i = 0; i < got.size(); ++i) {
    const std::string place = std::to_string(got[i].place.line) + ":" + std::to_string(got[i].place.column);
    shown += "# expect: " + place + ": " + got[i].message + (got[i].hint.empty() ? "" : " | " + got[i].hint) + "\n";
    good = good && got[i].place.file == path && place == expected[i].place &&
           got[i].message.find(expected[i].message) != std::string::npos &&
           got[i].hint.find(expected[i].hint) != std::string::npos;
  }
  CHECK_MESSAGE(good, path << " has these faults, and not those that it lists:\n" << shown);
}

}  // namespace moesim::test
