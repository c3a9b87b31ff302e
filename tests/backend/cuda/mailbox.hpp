// Processes as threads of the test: a transport of their own, with messages in order between two ranks.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <map>
#include <mutex>
#include <stdexcept>

#include "backend/transport.hpp"

namespace moesim::test {

class Post {
 public:
  explicit Post(int processes) : ranks(processes) {}
  void send(int from, int to, std::string content) {
    {
      const std::scoped_lock lock(mutex_);
      boxes_[{from, to}].push_back(std::move(content));
    }
    came_.notify_all();
  }
  std::string receive(int from, int to, double patience) {
    std::unique_lock lock(mutex_);
    auto& box = boxes_[{from, to}];
    if (!came_.wait_for(lock, std::chrono::duration<double>(patience), [&] { return !box.empty() || ended_; }) ||
        box.empty())
      throw std::runtime_error("rank " + std::to_string(to) + " has heard nothing from rank " + std::to_string(from));
    std::string out = std::move(box.front());
    box.pop_front();
    return out;
  }
  void end() {
    {
      const std::scoped_lock lock(mutex_);
      ended_ = true;
    }
    came_.notify_all();
  }
  const int ranks;

 private:
  std::mutex mutex_;
  std::condition_variable came_;
  std::map<std::pair<int, int>, std::deque<std::string>> boxes_;
  bool ended_ = false;
};

class Mailbox final : public backend::Transport {
 public:
  Mailbox(Post& post, int rank) : post_(post), rank_(rank) {}
  [[nodiscard]] Rank rank() const override { return Rank(rank_); }
  [[nodiscard]] int ranks() const override { return post_.ranks; }
  [[nodiscard]] int neighbours() const override { return post_.ranks; }
  [[nodiscard]] std::string description() const override { return "mailboxes"; }
  void exchange(std::span<const Message> sends, std::span<const Message> receives, double patience) override {
    for (const Message& m : sends)
      post_.send(rank_, m.peer.value(), std::string(reinterpret_cast<const char*>(m.data), m.bytes));
    for (const Message& m : receives) {
      const std::string got = post_.receive(m.peer.value(), rank_, patience);
      if (got.size() != m.bytes) throw std::logic_error("a message of another size");
      if (!got.empty()) std::memcpy(m.data, got.data(), got.size());
    }
  }
  std::vector<std::string> gather(const std::string& said, double patience) override {
    if (rank_ != 0) {
      post_.send(rank_, 0, said);
      return {};
    }
    std::vector<std::string> out{said};
    for (int r = 1; r < post_.ranks; ++r) out.push_back(post_.receive(r, 0, patience));
    return out;
  }
  [[noreturn]] void abort(int) override { throw std::logic_error("abort"); }

 private:
  Post& post_;
  int rank_;
};

}  // namespace moesim::test
