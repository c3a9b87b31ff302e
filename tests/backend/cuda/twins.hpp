// A command carried out by the processor and by the driver under test, and their memories compared.
#pragma once

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <memory>
#include <random>
#include <span>
#include <vector>

#include "backend/cuda/number.hpp"
#include "tests/backend/cuda/gpu_test.hpp"
#include "tests/backend/cuda/processor.hpp"

namespace moesim::test {

inline double ulp(DType t) { return t == DType::f32 ? 2e-6 : t == DType::bf16 ? 0x1p-8 : 0x1p-11; }

// One memory on the processor and one on the GPU, with the same content at the same offsets. A command is made for each
// from addresses in it, and both are carried out. What has no content yet is NaN.
class Twins {
 public:
  Twins()
      : device_(driver().open(0)),
        host_(room, std::byte{0xff}),
        gpu_(device_->allocate(room, backend::gpu::Device::Memory::device)) {}

  struct At {
    std::int64_t offset;
    DType dtype;
    std::int64_t rows, cols;
    bool given = true;
    [[nodiscard]] std::int64_t bytes() const { return rows * cols * bits(dtype) / 8; }
    // Without the first elements, as one row.
    [[nodiscard]] At from(std::int64_t element) const {
      return {offset + element * bits(dtype) / 8, dtype, 1, rows * cols - element, given};
    }
  };
  At tensor(DType t, std::int64_t rows, std::int64_t cols) {
    const At at{used_, t, rows, cols};
    std::normal_distribution<float> normal;
    for (std::int64_t i = 0; i < rows * cols; ++i) backend::gpu::store(host_.data() + used_, t, i, normal(random_));
    use(at.bytes());
    return at;
  }
  At result(DType t, std::int64_t rows, std::int64_t cols) {
    const At at{used_, t, rows, cols, false};
    use(at.bytes());
    return at;
  }
  template <class T>
  At table(const std::vector<T>& v) {
    const At at{used_, DType::i32, 1, 0};
    std::copy_n(reinterpret_cast<const std::byte*>(v.data()), v.size() * sizeof(T), host_.data() + used_);
    use(static_cast<std::int64_t>(v.size() * sizeof(T)));
    return at;
  }
  void set(const At& at, std::int64_t i, float v) { backend::gpu::store(host_.data() + at.offset, at.dtype, i, v); }
  struct Base {
    std::byte* base;
    [[nodiscard]] backend::Tensor operator()(const At& a) const { return {base + a.offset, a.dtype, a.rows, a.cols}; }
    template <class T>
    [[nodiscard]] const T* table(const At& a) const {
      return reinterpret_cast<const T*>(base + a.offset);
    }
  };

  // `near`: of the largest number in a row, and beside it; a NaN is where a NaN is.
  struct Near {
    double of_largest = 0, absolute = 0;
    Near(double part, double beside = 0) : of_largest(part), absolute(beside) {}
  };
  void check(const std::vector<At>& results, Near near, const std::function<backend::gpu::Command(const Base&)>& make) {
    for (const At& r : results)
      if (!r.given) std::fill_n(host_.begin() + r.offset, r.bytes(), std::byte{0xff});
    const std::vector<std::byte> before(host_.begin(), host_.begin() + used_ + 256);
    device_->upload(gpu_, before);
    carry_out(make({host_.data()}));
    backend::gpu::Command command = make({gpu_});
    if (auto* grouped = std::get_if<backend::gpu::GroupedProduct>(&command))
      grouped->addresses = addresses_of(*grouped);
    device_->enqueue(command, 0);
    REQUIRE(device_->finish(30, [] { return false; }));
    std::vector<std::byte> got(before.size());
    device_->download(got, gpu_);
    for (const At& r : results) {
      compare(r, got, near);
      std::copy_n(before.begin() + r.offset, r.bytes(), got.begin() + r.offset);
    }
    CHECK(got == before);  // nothing else was touched
  }
  void check(const At& result, Near near, const std::function<backend::gpu::Command(const Base&)>& make) {
    check(std::vector<At>{result}, near, make);
  }

 private:
  static constexpr std::size_t room = std::size_t{8} << 20;
  void use(std::int64_t bytes) {
    used_ += (bytes + 256) / 256 * 256;  // with a gap
    if (used_ + 256 > static_cast<std::int64_t>(room)) throw std::logic_error("the test needs more room");
  }
  void compare(const At& at, const std::vector<std::byte>& got, const Near& near) const {
    for (std::int64_t r = 0; r < at.rows; ++r) {
      double largest = 1e-6;
      double worst = 0;
      for (std::int64_t c = 0; c < at.cols; ++c) {
        const std::int64_t i = r * at.cols + c;
        const double expected = backend::gpu::load(host_.data() + at.offset, at.dtype, i);
        const double other = backend::gpu::load(got.data() + at.offset, at.dtype, i);
        if (std::isnan(expected) && std::isnan(other)) continue;
        largest = std::max(largest, std::abs(expected));
        worst = std::isnan(expected - other) ? INFINITY : std::max(worst, std::abs(expected - other));
      }
      CAPTURE(r);
      CHECK(worst <= near.of_largest * largest + near.absolute);
    }
  }
  const std::byte* addresses_of(const backend::gpu::GroupedProduct& c) {
    std::vector<const std::byte*> all;
    for (const auto& g : c.groups) all.push_back(g.w);
    for (const auto& g : c.groups) all.push_back(g.x);
    for (const auto& g : c.groups) all.push_back(g.y);
    std::byte* out =
        device_->allocate(static_cast<std::int64_t>(all.size() * sizeof all[0]), backend::gpu::Device::Memory::device);
    device_->upload(out, std::as_bytes(std::span(all)));
    return out;
  }
  std::unique_ptr<backend::gpu::Device> device_;
  std::vector<std::byte> host_;
  std::byte* gpu_;
  std::int64_t used_ = 0;
  std::mt19937 random_{1};
};

}  // namespace moesim::test
