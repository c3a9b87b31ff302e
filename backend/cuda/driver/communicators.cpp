#include "backend/cuda/driver/communicators.hpp"

#include <chrono>
#include <cstdlib>
#include <cstring>
#include <set>
#include <stdexcept>
#include <string_view>
#include <thread>

namespace moesim::backend::gpu {
namespace {

constexpr double patience = 120;  // seconds for members to meet

[[noreturn]] void fail(ncclResult_t status, ncclComm_t communicator, const char* what) {
  std::string text = std::string("NCCL: ") + what + ": " + ncclGetErrorString(status);
  const char* last = ncclGetLastError(communicator);
  if (last != nullptr && *last != '\0') text += std::string(" (") + last + ")";
  throw std::runtime_error(text);
}
// In progress is no error of a communicator that does not block.
void check(ncclResult_t status, ncclComm_t communicator, const char* what) {
  if (status != ncclSuccess && status != ncclInProgress) fail(status, communicator, what);
}

ncclDataType_t type_of(DType t) {
  switch (t) {
    case DType::f32:
      return ncclFloat32;
    case DType::bf16:
      return ncclBfloat16;
    case DType::f16:
      return ncclFloat16;
    case DType::i32:
      return ncclInt32;
    case DType::int8:
    case DType::fp8:
    case DType::fp4:
      return ncclUint8;
  }
  return ncclUint8;
}

}  // namespace

void Communicators::settle(ncclComm_t communicator, const char* what) {
  const auto begun = std::chrono::steady_clock::now();
  ncclResult_t state = ncclInProgress;
  while (true) {
    check(ncclCommGetAsyncError(communicator, &state), communicator, what);
    if (state != ncclInProgress) break;
    if (std::chrono::duration<double>(std::chrono::steady_clock::now() - begun).count() > patience)
      throw std::runtime_error(std::string("NCCL: ") + what + ": not all members came within " +
                               std::to_string(static_cast<int>(patience)) + " s");
    std::this_thread::yield();
  }
  check(state, communicator, what);
}

int Communicators::join(const MeetingId& id, int members, int position) {
  ncclUniqueId unique;
  if (id.size() != sizeof unique.internal) throw std::runtime_error("NCCL: an id of another version");
  std::memcpy(unique.internal, id.data(), id.size());
  ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
  config.blocking = 0;
  ncclComm_t communicator = nullptr;
  check(ncclCommInitRankConfig(&communicator, members, unique, position, &config), communicator,
        "joining a communicator");
  all_.push_back(communicator);
  settle(communicator, "joining a communicator");
  return static_cast<int>(all_.size()) - 1;
}

void Communicators::enqueue(const Exchange& c, cudaStream_t stream) {
  const auto of = [&](const Exchange::Message& m) { return all_.at(static_cast<std::size_t>(m.communicator)); };
  check(ncclGroupStart(), nullptr, "a group");
  for (const Exchange::Message& m : c.messages) {
    ncclComm_t comm = of(m);
    const auto n = static_cast<std::size_t>(m.elements);
    const ncclDataType_t type = type_of(m.dtype);
    ncclResult_t status = ncclSuccess;
    switch (m.kind) {
      case Exchange::Message::Kind::send:
        status = ncclSend(m.from, n, type, m.peer, comm, stream);
        break;
      case Exchange::Message::Kind::receive:
        status = ncclRecv(m.to, n, type, m.peer, comm, stream);
        break;
      case Exchange::Message::Kind::all_gather:
        status = ncclAllGather(m.from, m.to, n, type, comm, stream);
        break;
      case Exchange::Message::Kind::reduce_scatter:
        status = ncclReduceScatter(m.from, m.to, n, type, ncclSum, comm, stream);
        break;
      case Exchange::Message::Kind::all_reduce:
        status = ncclAllReduce(m.from, m.to, n, type, ncclSum, comm, stream);
        break;
      case Exchange::Message::Kind::broadcast:
        status = ncclBroadcast(m.from, m.to, n, type, m.peer, comm, stream);
        break;
      case Exchange::Message::Kind::reduce:
        status = ncclReduce(m.from, m.to, n, type, ncclSum, m.peer, comm, stream);
        break;
    }
    if (status != ncclSuccess && status != ncclInProgress) {
      ncclGroupEnd();
      fail(status, comm, "a collective");
    }
  }
  check(ncclGroupEnd(), nullptr, "a collective");
  std::set<ncclComm_t> used;
  for (const Exchange::Message& m : c.messages)
    if (used.insert(of(m)).second) settle(of(m), "a collective");
}

void Communicators::check_health() {
  for (ncclComm_t c : all_) {
    ncclResult_t state = ncclSuccess;
    check(ncclCommGetAsyncError(c, &state), c, "a collective");
    check(state, c, "a collective");
  }
}

void Communicators::abort() noexcept {
  if (aborted_) return;
  aborted_ = true;
  for (ncclComm_t c : all_) ncclCommAbort(c);
}

MeetingId new_meeting() {
  ncclUniqueId unique;
  check(ncclGetUniqueId(&unique), nullptr, "an id");
  return {unique.internal, unique.internal + sizeof unique.internal};
}

int nccl_ranks_per_gpu() {
  int version = 0;
  check(ncclGetVersion(&version), nullptr, "its version");
  const char* enabled = std::getenv("NCCL_MULTI_RANK_GPU_ENABLE");
  return version >= 23000 && enabled != nullptr && std::string_view(enabled) == "1" ? 2 : 1;
}

std::string nccl_version() {
  int v = 0;
  check(ncclGetVersion(&v), nullptr, "its version");
  return std::to_string(v / 10000) + "." + std::to_string(v / 100 % 100) + "." + std::to_string(v % 100);
}

}  // namespace moesim::backend::gpu
