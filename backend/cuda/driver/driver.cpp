// The module's devices: CUDA behind backend/cuda/device.hpp.
#include <chrono>
#include <cstdlib>
#include <thread>
#include <utility>

#include "backend/cuda/driver/check.hpp"
#include "backend/cuda/driver/communicators.hpp"
#include "backend/cuda/driver/kernels.hpp"
#include "backend/cuda/driver/products.hpp"

namespace moesim::backend::gpu {
namespace {

std::string version_text(int v) { return std::to_string(v / 1000) + "." + std::to_string(v % 1000 / 10); }

class CudaDevice final : public Device {
 public:
  explicit CudaDevice(int number) : number_(number), communicators_(number) {
    here();
    cudaDeviceProp p{};
    check(cudaGetDeviceProperties(&p, number), "its properties");
    description_ = {p.name,       p.major, p.minor, p.multiProcessorCount, static_cast<std::int64_t>(p.totalGlobalMem),
                    p.l2CacheSize};
  }
  ~CudaDevice() override {
    CudaDevice::abort();
    cudaDeviceSynchronize();
    products_.clear();
    for (const std::vector<cudaEvent_t>* events : {&events_, &stamps_})
      for (cudaEvent_t e : *events)
        if (e != nullptr) cudaEventDestroy(e);
    for (cudaStream_t s : streams_) cudaStreamDestroy(s);
    for (const auto& [p, where] : memory_) where == Memory::device ? cudaFree(p) : cudaFreeHost(p);
  }

  [[nodiscard]] const DeviceDescription& description() const override { return description_; }

  std::byte* allocate(std::int64_t bytes, Memory where) override {
    here();
    void* p = nullptr;
    const auto size = static_cast<std::size_t>(bytes);
    const cudaError_t status = where == Memory::device ? cudaMalloc(&p, size) : cudaMallocHost(&p, size);
    if (status == cudaErrorMemoryAllocation) {
      cudaGetLastError();  // it is not sticky
      std::size_t free = 0;
      std::size_t total = 0;
      check(cudaMemGetInfo(&free, &total), "free memory");
      throw OutOfMemory(bytes, static_cast<std::int64_t>(free));
    }
    check(status, "an allocation");
    memory_.emplace_back(p, where);
    return static_cast<std::byte*>(p);
  }
  void upload(std::byte* to, std::span<const std::byte> from) override {
    here();
    check(cudaMemcpyAsync(to, from.data(), from.size(), cudaMemcpyDefault, stream(0)), "an upload");
    check(cudaStreamSynchronize(stream(0)), "an upload");
  }
  void download(std::span<std::byte> to, const std::byte* from) override {
    here();
    check(cudaMemcpyAsync(to.data(), from, to.size(), cudaMemcpyDefault, stream(0)), "a download");
    check(cudaStreamSynchronize(stream(0)), "a download");
  }

  void enqueue(const Command& command, int s) override {
    here();
    const cudaStream_t on = stream(s);
    std::visit(
        [&](const auto& c) {
          using C = std::decay_t<decltype(c)>;
          if constexpr (std::is_same_v<C, Product> || std::is_same_v<C, GroupedProduct>)
            products(s).enqueue(c);
          else if constexpr (std::is_same_v<C, CopyBytes>)
            check(cudaMemcpyAsync(c.to, c.from, static_cast<std::size_t>(c.bytes), cudaMemcpyDefault, on), "a copy");
          else if constexpr (std::is_same_v<C, SetBytes>)
            check(cudaMemsetAsync(c.to, c.value, static_cast<std::size_t>(c.bytes), on), "setting memory");
          else if constexpr (std::is_same_v<C, Exchange>)
            communicators_.enqueue(c, on);
          else
            launch(c, on);
        },
        command);
  }

  void record(int event, int s) override {
    here();
    check(cudaEventRecord(at(events_, event, cudaEventDisableTiming), stream(s)), "an event");
  }
  void wait(int event, int s) override {
    here();
    check(cudaStreamWaitEvent(stream(s), at(events_, event, cudaEventDisableTiming), 0), "an event");
  }
  void stamp(int stamp, int s) override {
    here();
    // In a graph an ordinary record would only be a dependency.
    check(cudaEventRecordWithFlags(at(stamps_, stamp, cudaEventDefault), stream(s),
                                   capturing_ ? cudaEventRecordExternal : cudaEventRecordDefault),
          "a time stamp");
  }
  [[nodiscard]] double nanoseconds(int from, int to) override {
    here();
    float milliseconds = 0;
    check(cudaEventElapsedTime(&milliseconds, at(stamps_, from, cudaEventDefault), at(stamps_, to, cudaEventDefault)),
          "a time");
    return static_cast<double>(milliseconds) * 1e6;
  }
  [[nodiscard]] bool reached(int stamp) override {
    cudaSetDevice(number_);
    return cudaEventQuery(at(stamps_, stamp, cudaEventDefault)) == cudaSuccess;
  }

  bool finish(double patience, const std::function<bool()>& give_up) override {
    here();
    const auto begun = std::chrono::steady_clock::now();
    for (int polls = 0;; ++polls) {
      bool done = true;
      for (cudaStream_t s : streams_) {
        const cudaError_t status = cudaStreamQuery(s);
        if (status == cudaErrorNotReady)
          done = false;
        else
          check(status, "the work of a stream");
      }
      if (done) return true;
      if (polls % 64 != 0) continue;
      communicators_.check_health();
      if (give_up()) return false;
      if (std::chrono::duration<double>(std::chrono::steady_clock::now() - begun).count() > patience) return false;
      std::this_thread::yield();
    }
  }

  void flush_cache(int s) override {
    if (flush_ == nullptr) flush_ = allocate(2 * std::max<std::int64_t>(description_.l2_cache, 1), Memory::device);
    check(cudaMemsetAsync(flush_, 0, static_cast<std::size_t>(2 * description_.l2_cache), stream(s)), "a flush");
  }

  void begin_capture() override {
    here();
    check(cudaStreamBeginCapture(stream(0), cudaStreamCaptureModeThreadLocal), "a graph");
    capturing_ = true;
  }
  void end_capture() override {
    here();
    capturing_ = false;
    cudaGraph_t graph = nullptr;
    const cudaError_t ended = cudaStreamEndCapture(stream(0), &graph);
    if (ended != cudaSuccess) cudaGetLastError();  // the stream works again
    check(ended, "a graph");
    if (graph_ != nullptr) check(cudaGraphExecDestroy(graph_), "a graph");
    graph_ = nullptr;
    const cudaError_t status = cudaGraphInstantiate(&graph_, graph, 0);
    cudaGraphDestroy(graph);
    check(status, "a graph");
  }
  void replay() override {
    here();
    check(cudaGraphLaunch(graph_, stream(0)), "a graph");
  }

  int join(const MeetingId& id, int members, int position) override {
    here();
    return communicators_.join(id, members, position);
  }
  void watch(std::function<bool()> give_up) override { communicators_.watch_for(std::move(give_up)); }
  // NCCL's abort waits until no graph holds its calls any more (commDestroySync, NCCL 2.26).
  void abort() noexcept override {
    cudaSetDevice(number_);
    if (std::exchange(capturing_, false)) {
      cudaGraph_t begun = nullptr;
      if (cudaStreamEndCapture(streams_.front(), &begun) == cudaSuccess) cudaGraphDestroy(begun);
    }
    if (graph_ != nullptr) cudaGraphExecDestroy(std::exchange(graph_, nullptr));
    communicators_.abort();
  }

 private:
  void here() { check(cudaSetDevice(number_), "the device"); }

  cudaStream_t stream(int s) {
    while (streams_.size() <= static_cast<std::size_t>(s)) {
      cudaStream_t made = nullptr;
      check(cudaStreamCreateWithFlags(&made, cudaStreamNonBlocking), "a stream");
      streams_.push_back(made);
      products_.emplace_back();
      if (streams_.size() == 1) products(0);  // before anything is captured or timed
    }
    return streams_[static_cast<std::size_t>(s)];
  }
  // Handles and a workspace only for streams that multiply.
  Products& products(int s) {
    std::unique_ptr<Products>& p = products_[static_cast<std::size_t>(s)];
    if (p == nullptr) p = std::make_unique<Products>(streams_[static_cast<std::size_t>(s)]);
    return *p;
  }
  static cudaEvent_t at(std::vector<cudaEvent_t>& events, int i, unsigned flags) {
    const auto n = static_cast<std::size_t>(i);
    if (events.size() <= n) events.resize(n + 1, nullptr);
    if (events[n] == nullptr) check(cudaEventCreateWithFlags(&events[n], flags), "an event");
    return events[n];
  }

  int number_;
  DeviceDescription description_;
  std::vector<std::pair<void*, Memory>> memory_;
  std::vector<cudaStream_t> streams_;
  std::vector<std::unique_ptr<Products>> products_;  // [stream]
  std::vector<cudaEvent_t> events_;
  std::vector<cudaEvent_t> stamps_;
  Communicators communicators_;
  std::byte* flush_ = nullptr;
  cudaGraphExec_t graph_ = nullptr;
  bool capturing_ = false;
};

class CudaDriver final : public Driver {
 public:
  [[nodiscard]] std::string trouble() const override {
    int count = 0;
    const cudaError_t status = cudaGetDeviceCount(&count);
    if (status == cudaErrorInsufficientDriver) {
      int driver = 0;
      cudaDriverGetVersion(&driver);
      return driver == 0 ? "there is no NVIDIA driver here"
                         : "the NVIDIA driver supports CUDA " + version_text(driver) + ", and this build needs CUDA " +
                               version_text(CUDART_VERSION) + ": install a newer driver";
    }
    if (status == cudaErrorNoDevice || (status == cudaSuccess && count == 0))
      return "there is no GPU that CUDA can use";
    if (status != cudaSuccess) return std::string("CUDA does not start: ") + cudaGetErrorString(status);
    return {};
  }
  [[nodiscard]] int devices() const override {
    int count = 0;
    return cudaGetDeviceCount(&count) == cudaSuccess ? count : 0;
  }
  [[nodiscard]] int ranks_per_device() const override { return nccl_ranks_per_gpu(); }
  [[nodiscard]] std::string versions() const override {
    int driver = 0;
    cudaDriverGetVersion(&driver);
    return "CUDA " + version_text(CUDART_VERSION) + ", driver for CUDA " + version_text(driver) + ", cuBLAS " +
           cublas_version() + ", NCCL " + nccl_version();
  }
  std::unique_ptr<Device> open(int device) override { return std::make_unique<CudaDevice>(device); }
  MeetingId meeting_id() override { return new_meeting(); }
};

}  // namespace
}  // namespace moesim::backend::gpu

extern "C" moesim::backend::gpu::Driver* moesim_cuda_driver(int interface_version) {
  if (interface_version != moesim::backend::gpu::driver_interface) return nullptr;
  // Kernels of two communicators on one GPU wait for their peers in the order in which the host launched them, which is
  // the plan's at every rank; else two GPUs could each run the one that the other does not (NCCL 2.26 and newer).
  setenv("NCCL_LAUNCH_ORDER_IMPLICIT", "1", 0);
  // Loading a kernel may wait for the device, and a rank's collective on it for the very rank that loads.
  if (moesim::backend::gpu::nccl_ranks_per_gpu() > 1) setenv("CUDA_MODULE_LOADING", "EAGER", 0);
  static moesim::backend::gpu::CudaDriver driver;
  return &driver;
}
