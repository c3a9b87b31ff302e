#include "study/scenario.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <set>
#include <tuple>

#include "study/scenario_reader.hpp"
#include "support/files.hpp"

namespace moesim::study {

bool names_a_file(std::string_view name) {
  constexpr std::string_view others = "._-+=,@#()[] ";
  const auto alphanumeric = [](char c) { return std::isalnum(static_cast<unsigned char>(c)) != 0; };
  return !name.empty() && name.size() <= 100 && alphanumeric(name.front()) &&
         std::ranges::all_of(name, [&](char c) { return alphanumeric(c) || others.find(c) != std::string_view::npos; });
}

std::string printable(std::string_view text) {
  std::string out(text);
  for (char& c : out)
    if (c < ' ' || c > '~') c = '?';
  return out;
}
namespace {

constexpr std::size_t most_points = 100'000;

// Sets a value from a sweep or from outside; a path that leads nowhere is a fault at `place`.
void set(TomlDocument& doc, const std::string& key, const RawValue& value, const SourcePlace& place) {
  if (const std::optional<Fault> fault = doc.replace(key, value)) doc.error(place, fault->message, fault->hint);
}

// Reads the text with the given value of each axis.
Scenario read_point(const Scenario& like, const std::vector<std::size_t>& choice) {
  TomlDocument doc(like.text, like.path);
  Scenario s;
  s.path = like.path;
  s.text = like.text;
  s.changes = like.changes;
  for (const RawValue& change : s.changes) set(doc, change.key, change, change.place);
  ScenarioReader reader(doc, s);
  reader.read_sweep();
  for (std::size_t a = 0; a < s.sweep.size(); ++a)
    set(doc, s.sweep[a].key, s.sweep[a].values[a < choice.size() ? choice[a] : 0], s.sweep[a].place);
  reader.read();
  doc.throw_if_errors();
  s.places = doc.places();
  return s;
}

}  // namespace

SourcePlace Scenario::place(const std::string& key) const {
  for (std::string k = key;; k.resize(k.rfind('.'))) {
    if (const auto it = places.find(k); it != places.end()) return it->second;
    if (k.find('.') == std::string::npos) return {path, 1, 1};
  }
}

Scenario parse_scenario(std::string text, const std::string& path, const std::vector<RawValue>& changes) {
  Scenario source;
  source.path = path;
  source.text = std::move(text);
  source.changes = changes;
  return read_point(source, {});
}

Scenario read_scenario(const std::string& path, const std::vector<RawValue>& changes) {
  return parse_scenario(read_file(path, std::size_t{16} << 20), path, changes);
}

std::vector<ScenarioPoint> expand(const Scenario& scenario) {
  std::size_t count = 1;
  for (const SweepAxis& axis : scenario.sweep) {
    count *= axis.values.size();
    if (count > most_points)
      throw InputError(axis.place, fmt::format("the sweep has more than {} points", most_points));
  }
  std::vector<ScenarioPoint> points;
  std::vector<Diagnostic> faults;
  std::set<std::tuple<std::string, int, int, std::string>> seen;
  for (std::size_t p = 0; p < count; ++p) {
    std::vector<std::size_t> choice(scenario.sweep.size());
    std::size_t rest = p;
    for (std::size_t a = choice.size(); a-- > 0; rest /= scenario.sweep[a].values.size())
      choice[a] = rest % scenario.sweep[a].values.size();
    std::vector<std::pair<std::string, std::string>> axes;
    for (std::size_t a = 0; a < choice.size(); ++a)
      axes.emplace_back(scenario.sweep[a].key, to_text(scenario.sweep[a].values[choice[a]]));
    try {
      points.push_back({read_point(scenario, choice), std::move(axes)});
    } catch (const InputError& e) {
      for (const Diagnostic& d : e.diagnostics())
        if (seen.emplace(d.place.file, d.place.line, d.place.column, d.message).second) faults.push_back(d);
    }
  }
  std::stable_sort(faults.begin(), faults.end(), [](const Diagnostic& a, const Diagnostic& b) {
    return std::tie(a.place.file, a.place.line, a.place.column) < std::tie(b.place.file, b.place.line, b.place.column);
  });
  if (!faults.empty()) throw InputError(std::move(faults));
  return points;
}

}  // namespace moesim::study
