// Opens the MPI module when it is asked for: the program itself does not depend on MPI.
#include <dlfcn.h>
#include <fmt/format.h>

#include "backend/executor.hpp"
#include "backend/module.hpp"
#include "backend/transport.hpp"

namespace moesim::backend {
std::unique_ptr<Transport> mpi_transport() {
  const std::filesystem::path path = find_module("moesim_mpi.so");
  if (path.empty())
    throw Refused(
        "this build has no MPI transport: install Open MPI (libopenmpi-dev, openmpi-bin) and configure with "
        "-DMOESIM_MPI=ON; without '--transport mpi' ranks are threads of this process");
  // Open MPI opens plug-ins of its own, which look for its symbols.
  void* module = dlopen(path.c_str(), RTLD_NOW | RTLD_GLOBAL);
  if (module == nullptr)
    throw Refused(fmt::format("the MPI transport does not load: {}; install openmpi-bin", dlerror()));
  using Make = Transport* (*)();
  const auto make = reinterpret_cast<Make>(dlsym(module, "moesim_mpi_transport"));
  if (make == nullptr) throw Refused(fmt::format("{} is not this program's MPI transport", path.string()));
  return std::unique_ptr<Transport>(make());
}

}  // namespace moesim::backend
