// Ranks over MPI. A module of its own: the program opens it when it is asked for (backend/mpi_loader.cpp), so that it
// starts on machines without MPI.
//
// Everything is nonblocking and polled, so that a rank that died or hangs ends the run with a message instead of a wait
// without end.
#include <mpi.h>

#include <chrono>
#include <cstring>
#include <numeric>
#include <stdexcept>
#include <thread>

#include "backend/transport.hpp"

namespace moesim::backend {
namespace {

constexpr int data_tag = 1;
constexpr int gather_tag = 2;
constexpr std::size_t chunk = std::size_t{1} << 30;  // MPI counts are int

// Foreign calls go through here.
void check(int status, const char* call) {
  if (status == MPI_SUCCESS) return;
  char text[MPI_MAX_ERROR_STRING];
  int length = 0;
  MPI_Error_string(status, text, &length);
  throw std::runtime_error(std::string(call) + ": " + std::string(text, static_cast<std::size_t>(length)));
}

class Mpi final : public Transport {
 public:
  Mpi() {
    int running = 0;
    check(MPI_Initialized(&running), "MPI_Initialized");
    if (running == 0) {
      int provided = 0;
      check(MPI_Init_thread(nullptr, nullptr, MPI_THREAD_FUNNELED, &provided), "MPI_Init_thread");
    }
    check(MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler");
    check(MPI_Comm_rank(MPI_COMM_WORLD, &rank_), "MPI_Comm_rank");
    check(MPI_Comm_size(MPI_COMM_WORLD, &size_), "MPI_Comm_size");
    MPI_Comm here = MPI_COMM_NULL;
    check(MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, rank_, MPI_INFO_NULL, &here),
          "MPI_Comm_split_type");
    check(MPI_Comm_size(here, &neighbours_), "MPI_Comm_size");
    check(MPI_Comm_free(&here), "MPI_Comm_free");
  }
  Mpi(const Mpi&) = delete;
  Mpi& operator=(const Mpi&) = delete;
  ~Mpi() override {
    // After an error the others may never come to finalize; abort() has been called or will be.
    int finished = 0;
    if (!failed_ && MPI_Finalized(&finished) == MPI_SUCCESS && finished == 0) MPI_Finalize();
  }

  [[nodiscard]] Rank rank() const override { return Rank(rank_); }
  [[nodiscard]] int ranks() const override { return size_; }
  [[nodiscard]] int neighbours() const override { return neighbours_; }
  [[nodiscard]] std::string description() const override {
    char text[MPI_MAX_LIBRARY_VERSION_STRING];
    int length = 0;
    if (MPI_Get_library_version(text, &length) != MPI_SUCCESS) return "MPI";
    const std::string all(text, static_cast<std::size_t>(length));
    return all.substr(0, all.find(','));
  }

  void exchange(std::span<const Message> sends, std::span<const Message> receives, double patience) override {
    requests_.clear();
    peers_.clear();
    const auto post = [&](const Message& m, bool send) {
      std::size_t at = 0;
      do {
        const std::size_t bytes = std::min(chunk, m.bytes - at);
        requests_.push_back(MPI_REQUEST_NULL);
        peers_.push_back(m.peer.value());
        const auto count = static_cast<int>(bytes);
        check(
            send ? MPI_Isend(m.data + at, count, MPI_BYTE, m.peer.value(), data_tag, MPI_COMM_WORLD, &requests_.back())
                 : MPI_Irecv(m.data + at, count, MPI_BYTE, m.peer.value(), data_tag, MPI_COMM_WORLD, &requests_.back()),
            send ? "MPI_Isend" : "MPI_Irecv");
        at += bytes;
      } while (at < m.bytes);
    };
    for (const Message& m : receives) post(m, false);
    for (const Message& m : sends) post(m, true);
    complete(patience);
  }

  std::vector<std::string> gather(const std::string& said, double patience) override {
    // Sizes first, then the texts.
    std::vector<std::uint64_t> sizes(static_cast<std::size_t>(size_), said.size());
    std::vector<std::string> all(rank_ == 0 ? static_cast<std::size_t>(size_) : 0);
    requests_.clear();
    peers_.clear();
    const auto post = [&](void* data, std::size_t bytes, int peer, bool send) {
      requests_.push_back(MPI_REQUEST_NULL);
      peers_.push_back(peer);
      const auto count = static_cast<int>(bytes);
      check(send ? MPI_Isend(data, count, MPI_BYTE, peer, gather_tag, MPI_COMM_WORLD, &requests_.back())
                 : MPI_Irecv(data, count, MPI_BYTE, peer, gather_tag, MPI_COMM_WORLD, &requests_.back()),
            "gather");
    };
    std::string copy = said;
    if (rank_ == 0) {
      for (int r = 1; r < size_; ++r) post(&sizes[static_cast<std::size_t>(r)], sizeof sizes[0], r, false);
      complete(patience);
      all[0] = said;
      for (int r = 1; r < size_; ++r) {
        std::string& to = all[static_cast<std::size_t>(r)];
        to.resize(static_cast<std::size_t>(sizes[static_cast<std::size_t>(r)]));
        post(to.data(), to.size(), r, false);
      }
    } else {
      post(sizes.data(), sizeof sizes[0], 0, true);
      post(copy.data(), copy.size(), 0, true);
    }
    complete(patience);
    return all;
  }

  [[noreturn]] void abort(int status) override {
    failed_ = true;
    MPI_Abort(MPI_COMM_WORLD, status);
    std::_Exit(status);
  }

 private:
  // Waits for all requests; gives up when none has completed for `patience` seconds.
  void complete(double patience) {
    using Clock = std::chrono::steady_clock;
    Clock::time_point progress = Clock::now();
    std::vector<int> done(requests_.size());
    std::vector<MPI_Status> statuses(requests_.size());
    std::size_t left = requests_.size();
    for (int polls = 0; left > 0; ++polls) {
      int count = 0;
      check(MPI_Testsome(static_cast<int>(requests_.size()), requests_.data(), &count, done.data(), statuses.data()),
            "MPI_Testsome");
      if (count > 0) {
        left -= static_cast<std::size_t>(count);
        progress = Clock::now();
        polls = 0;
        continue;
      }
      if (polls < 1000) continue;
      std::this_thread::yield();
      if (std::chrono::duration<double>(Clock::now() - progress).count() > patience) give_up(patience);
    }
    requests_.clear();
    peers_.clear();
  }

  [[noreturn]] void give_up(double patience) {
    failed_ = true;
    std::string silent;
    for (int r = 0; r < size_; ++r) {
      bool waits = false;
      for (std::size_t i = 0; i < requests_.size(); ++i)
        waits = waits || (peers_[i] == r && requests_[i] != MPI_REQUEST_NULL);
      if (waits) silent += (silent.empty() ? "" : ", ") + std::to_string(r);
    }
    throw std::runtime_error("rank " + std::to_string(rank_) + " has heard nothing from rank " + silent + " for " +
                             std::to_string(static_cast<int>(patience)) + " s");
  }

  int rank_ = 0;
  int size_ = 1;
  int neighbours_ = 1;
  bool failed_ = false;
  std::vector<MPI_Request> requests_;
  std::vector<int> peers_;
};

}  // namespace
}  // namespace moesim::backend

// The one symbol of the module.
extern "C" moesim::backend::Transport* moesim_mpi_transport() { return new moesim::backend::Mpi; }
