#include "backend/cuda/driver/communicators.hpp"

#include <chrono>
#include <cstdlib>
#include <cstring>
#include <future>
#include <memory>
#include <stdexcept>
#include <string_view>

namespace moesim::backend::gpu {
namespace {

constexpr std::chrono::seconds patience{120};  // for members to meet
constexpr int oldest = 22600;

std::string version_text(int v) {
  return std::to_string(v / 10000) + "." + std::to_string(v / 100 % 100) + "." + std::to_string(v % 100);
}

std::int64_t now() { return std::chrono::steady_clock::now().time_since_epoch().count(); }

std::runtime_error not_all_came(const char* what) {
  return std::runtime_error(std::string("NCCL: ") + what + ": not all members came within " +
                            std::to_string(patience.count()) + " s");
}

[[noreturn]] void fail(ncclResult_t status, ncclComm_t communicator, const char* what) {
  std::string text = std::string("NCCL: ") + what + ": " + ncclGetErrorString(status);
  const char* last = ncclGetLastError(communicator);
  if (last != nullptr && *last != '\0') text += std::string(" (") + last + ")";
  throw std::runtime_error(text);
}
void check(ncclResult_t status, ncclComm_t communicator, const char* what) {
  if (status != ncclSuccess) fail(status, communicator, what);
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

Communicators::~Communicators() {
  {
    const std::scoped_lock lock(mutex_);
    end_ = true;
  }
  change_.notify_all();
  if (watchdog_.joinable()) watchdog_.join();
  abort();
}

void Communicators::must_live() const {
  if (late_) throw not_all_came("a collective");
  if (aborted_) throw std::runtime_error("NCCL: the communicators have been ended");
}

void Communicators::watch_for(std::function<bool()> give_up) {
  const std::scoped_lock lock(mutex_);
  give_up_ = std::move(give_up);
}

// Nobody else can end a call that waits for peers, or a launch behind a kernel that does. NCCL then gives up with an
// error, on the device as on the host.
void Communicators::watch() {
  std::unique_lock lock(mutex_);
  while (!change_.wait_for(lock, std::chrono::seconds(1), [&] { return end_; })) {
    const std::int64_t entered = entered_;
    const bool late = entered != 0 && now() - entered > std::chrono::steady_clock::duration(patience).count();
    if (!late && !(give_up_ && give_up_())) continue;
    if (late) late_ = true;
    if (aborted_.exchange(true)) continue;
    const std::vector<ncclComm_t> all = all_;
    lock.unlock();  // it may wait for the host thread, which may want the lock
    for (ncclComm_t c : all) ncclCommAbort(c);
    lock.lock();
  }
}

// A thread that waits for peers inside NCCL cannot be called back: after `patience` it is left behind.
int Communicators::join(const MeetingId& id, int members, int position) {
  struct Joining {
    ncclUniqueId id;
    ncclComm_t communicator = nullptr;
    std::promise<ncclResult_t> status;
  };
  must_live();
  int version = 0;
  check(ncclGetVersion(&version), nullptr, "its version");
  if (version < oldest)
    throw std::runtime_error("NCCL: this is " + version_text(version) + ", and ranks on GPUs of their own need " +
                             version_text(oldest) + " or newer, where kernels start in the order of their calls");
  const auto joining = std::make_shared<Joining>();
  if (id.size() != sizeof joining->id.internal) throw std::runtime_error("NCCL: an id of another version");
  std::memcpy(joining->id.internal, id.data(), id.size());
  std::future<ncclResult_t> status = joining->status.get_future();
  std::thread([joining, members, position, device = device_] {
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    cudaSetDevice(device);
    joining->status.set_value(ncclCommInitRankConfig(&joining->communicator, members, joining->id, position, &config));
  }).detach();
  if (status.wait_for(patience) != std::future_status::ready) throw not_all_came("joining a communicator");
  check(status.get(), joining->communicator, "joining a communicator");
  const std::scoped_lock lock(mutex_);
  if (!watchdog_.joinable()) watchdog_ = std::thread([this] { watch(); });
  all_.push_back(joining->communicator);
  return static_cast<int>(all_.size()) - 1;
}

void Communicators::enqueue(const Exchange& c, cudaStream_t stream) {
  must_live();
  struct Call {
    std::atomic<std::int64_t>& entered;
    explicit Call(std::atomic<std::int64_t>& e) : entered(e) { entered = now(); }
    ~Call() { entered = 0; }
  };
  const Call call(entered_);
  check(ncclGroupStart(), nullptr, "a group");
  for (const Exchange::Message& m : c.messages) {
    ncclComm_t comm = all_.at(static_cast<std::size_t>(m.communicator));
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
    if (status != ncclSuccess) {
      ncclGroupEnd();
      must_live();
      fail(status, comm, "a collective");
    }
  }
  const ncclResult_t ended = ncclGroupEnd();
  must_live();
  check(ended, nullptr, "a collective");
}

void Communicators::check_health() {
  must_live();
  for (ncclComm_t c : all_) {
    ncclResult_t state = ncclSuccess;
    check(ncclCommGetAsyncError(c, &state), c, "a collective");
    check(state, c, "a collective");
  }
}

void Communicators::abort() noexcept {
  if (aborted_.exchange(true)) return;
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
  return version_text(v);
}

}  // namespace moesim::backend::gpu
