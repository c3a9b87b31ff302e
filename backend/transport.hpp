// Carries bytes between ranks that are processes of their own.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "moesim/ids.hpp"

namespace moesim::backend {

class Transport {
 public:
  struct Message {
    Rank peer;
    std::byte* data = nullptr;  // not written to when it is sent
    std::size_t bytes = 0;
  };

  Transport() = default;
  Transport(const Transport&) = delete;
  Transport& operator=(const Transport&) = delete;
  virtual ~Transport() = default;
  [[nodiscard]] virtual Rank rank() const = 0;
  [[nodiscard]] virtual int ranks() const = 0;
  [[nodiscard]] virtual int neighbours() const = 0;           // ranks on this computer, this one included
  [[nodiscard]] virtual std::string description() const = 0;  // "Open MPI 4.1.4"
  // Sends and receives; messages between two ranks keep their order. Returns when all are complete. Throws
  // std::runtime_error that names the silent ranks when nothing has moved for `patience` seconds.
  virtual void exchange(std::span<const Message> sends, std::span<const Message> receives, double patience) = 0;
  // What every rank says, at rank 0; nothing elsewhere.
  virtual std::vector<std::string> gather(const std::string& said, double patience) = 0;
  // Ends all ranks at once, after an error that the others cannot know of. Does not return.
  [[noreturn]] virtual void abort(int status) = 0;
};

// The processes that mpirun started, through a module that is loaded when this is called. Throws Refused where the
// build or the machine has no MPI, with what to do about it.
std::unique_ptr<Transport> mpi_transport();

}  // namespace moesim::backend
