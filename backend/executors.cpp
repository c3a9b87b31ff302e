// All executors, by name.
#include "backend/executor.hpp"

namespace moesim::backend {

const Executor* find_executor(std::string_view name) {
  for (const Executor* e : {&host(), &cuda()})
    if (e->name() == name) return e;
  return nullptr;
}

std::vector<std::string_view> executor_names() { return {host().name(), cuda().name()}; }

}  // namespace moesim::backend
