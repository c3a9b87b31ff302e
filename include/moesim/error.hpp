// Errors. Bad input from a user's file is an InputError that carries every problem found, each with its place.
// A result that physics forbids is a PhysicsError: a defect in a model or a machine file, never a number to print.
#pragma once

#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace moesim {

// A place in a user's file; line and column are 1-based, 0 where the format has none (a binary file).
struct SourcePlace {
  std::string file;
  int line = 0;
  int column = 0;
};

struct Diagnostic {
  SourcePlace place;
  std::string message;  // what is wrong, with the value and the bound
  std::string hint;     // what to do about it; may be empty
};

// "file:line:column: error: message\n  hint: ..." - one block per diagnostic.
std::string format_diagnostics(const std::vector<Diagnostic>& diagnostics);

class InputError : public std::runtime_error {
 public:
  explicit InputError(std::vector<Diagnostic> diagnostics);
  InputError(SourcePlace place, std::string message, std::string hint = {});
  [[nodiscard]] const std::vector<Diagnostic>& diagnostics() const { return diagnostics_; }

 private:
  std::vector<Diagnostic> diagnostics_;
};

class PhysicsError : public std::logic_error {
 public:
  using std::logic_error::logic_error;
};

// The candidate closest to `word` by edit distance, or empty where none is close enough to be a likely typo.
std::string_view nearest_name(std::string_view word, const std::vector<std::string_view>& candidates);

}  // namespace moesim
