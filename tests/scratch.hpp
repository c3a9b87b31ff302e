// Files that a test writes.
#pragma once

#include <string>

namespace moesim::test {

// Path of a file (or directory) of this name in a directory of this process's own, which is removed when it ends.
std::string scratch(const std::string& name);

}  // namespace moesim::test
