// Inside the scenario reader.
#pragma once

#include "study/scenario.hpp"

namespace moesim::study {

// Counts of tokens stay below this, so that no product of shapes overflows 64 bits unnoticed.
inline constexpr std::int64_t most_tokens = std::int64_t{1} << 40;

// Reads a document's sections into a scenario; faults collect in the document.
class ScenarioReader {
 public:
  ScenarioReader(TomlDocument& document, Scenario& scenario) : doc_(document), s_(scenario) {}
  void read_sweep();  // only [[sweep]], which decides what the rest of the file says
  void read();        // everything else

 private:
  void model(TomlTable t);
  void cluster(TomlTable t);
  void network(TomlTable t);
  void workload(TomlTable t);
  void check_tokens(TomlTable& t, std::int64_t sequences);
  void routing(TomlTable t);
  void dynamics(TomlTable& t);
  void law(TomlTable& t);
  void strategies();
  void simulation(TomlTable t);
  void report(TomlTable t);
  void published();
  void published_at(TomlTable t, Published& figure);
  // The path that a key names, relative to the scenario; a fault at the key where there is no such file.
  std::string resolved(TomlTable& table, std::string_view key, const std::string& path);
  [[nodiscard]] std::vector<std::string_view> strategy_names() const;

  TomlDocument& doc_;
  Scenario& s_;
};

}  // namespace moesim::study
