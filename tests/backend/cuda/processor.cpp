#include "tests/backend/cuda/processor.hpp"

#include <algorithm>
#include <chrono>
#include <stdexcept>
#include <thread>
#include <tuple>

#include "backend/cuda/number.hpp"

namespace moesim::test {

using namespace backend;
using namespace backend::gpu;
using Message = Exchange::Message;

namespace {

bool collective(Message::Kind k) { return k != Message::Kind::send && k != Message::Kind::receive; }

void require(bool good, const char* what) {
  if (!good) throw std::logic_error(std::string("NCCL calls of the members do not match: ") + what);
}

void sum_into(const std::vector<const std::byte*>& sources, std::byte* to, std::int64_t elements, DType t) {
  for (std::int64_t i = 0; i < elements; ++i) {
    float sum = 0;
    for (const std::byte* s : sources) sum += load(s, t, i);
    store(to, t, i, sum);
  }
}

// One call of each kind, at all members at once.
void carry_out_collective(const std::vector<const Message*>& m) {
  const Message& first = *m.front();
  const std::int64_t size = bytes_of(first.dtype);
  std::vector<const std::byte*> from;
  for (const Message* each : m) {
    require(each->kind == first.kind && each->elements == first.elements && each->dtype == first.dtype &&
                each->peer == first.peer,
            "a collective of another kind, size, format or root");
    from.push_back(each->from);
  }
  const std::int64_t n = first.elements;
  // NCCL has read everything before it writes, as far as in-place buffers go; here results are kept apart.
  std::vector<std::vector<std::byte>> results(m.size());
  for (std::size_t i = 0; i < m.size(); ++i) {
    const auto root = static_cast<std::size_t>(first.peer);
    switch (first.kind) {
      case Message::Kind::all_gather:
        for (const std::byte* s : from) results[i].insert(results[i].end(), s, s + n * size);
        break;
      case Message::Kind::reduce_scatter: {
        std::vector<const std::byte*> parts;
        for (const std::byte* s : from) parts.push_back(s + static_cast<std::int64_t>(i) * n * size);
        results[i].resize(static_cast<std::size_t>(n * size));
        sum_into(parts, results[i].data(), n, first.dtype);
        break;
      }
      case Message::Kind::all_reduce:
        results[i].resize(static_cast<std::size_t>(n * size));
        sum_into(from, results[i].data(), n, first.dtype);
        break;
      case Message::Kind::broadcast:
        results[i].assign(from[root], from[root] + n * size);
        break;
      case Message::Kind::reduce:
        if (i != root) break;
        results[i].resize(static_cast<std::size_t>(n * size));
        sum_into(from, results[i].data(), n, first.dtype);
        break;
      case Message::Kind::send:
      case Message::Kind::receive:
        break;
    }
  }
  for (std::size_t i = 0; i < m.size(); ++i) std::copy(results[i].begin(), results[i].end(), m[i]->to);
}

}  // namespace

// ---- machine ----

std::unique_ptr<Device> Machine::open(int device) { return std::make_unique<Processor>(*this, device); }

MeetingId Machine::meeting_id() {
  const std::scoped_lock lock(mutex_);
  const std::string text = "meeting " + std::to_string(meetings_++);
  return {text.begin(), text.end()};
}

std::optional<int> Machine::waiting(const Communicator& c, std::size_t member) {
  Processor* p = c.members[member];
  if (p == nullptr) return std::nullopt;
  for (const auto& [s, items] : p->streams_) {
    if (items.empty() || items.front().kind != Processor::Item::Kind::command) continue;
    const auto* e = std::get_if<Exchange>(&items.front().command);
    if (e == nullptr) continue;
    for (const Message& m : e->messages)
      if (m.communicator == c.number[member]) return s;
  }
  return std::nullopt;
}

bool Machine::exchange(Processor& from, int stream) {
  // A group of calls ends when all of its calls have met their peers': what is involved are all members, or those that
  // messages lead to, and whom their groups involve.
  struct Call {
    const Message* message;
    Communicator* communicator;
    std::size_t position;
  };
  std::vector<Call> calls;
  std::set<std::pair<Processor*, int>> involved{{&from, stream}};
  std::vector<std::pair<Processor*, int>> open{{&from, stream}};
  while (!open.empty()) {
    const auto [p, s] = open.back();
    open.pop_back();
    for (const Message& m : std::get<Exchange>(p->streams_[s].front().command).messages) {
      require(m.elements > 0, "a call without elements");
      const auto& [c, position] = p->communicators_.at(static_cast<std::size_t>(m.communicator));
      calls.push_back({&m, c.get(), static_cast<std::size_t>(position)});
      for (std::size_t j = 0; j < c->members.size(); ++j) {
        if (!collective(m.kind) && m.peer != static_cast<int>(j)) continue;
        const std::optional<int> there = waiting(*c, j);
        if (!there) return false;
        if (involved.emplace(c->members[j], *there).second) open.emplace_back(c->members[j], *there);
      }
    }
  }
  // Sends meet receives in the order in which they were called; the k-th collective call of each meets the others'
  // k-th.
  std::map<std::tuple<Communicator*, std::size_t, std::size_t>, std::deque<const Message*>> sent;
  std::map<Communicator*, std::map<std::size_t, std::vector<const Message*>>> collectives;
  for (const auto& [m, c, position] : calls) {
    if (m->kind == Message::Kind::send) sent[{c, position, static_cast<std::size_t>(m->peer)}].push_back(m);
    if (collective(m->kind)) collectives[c][position].push_back(m);
  }
  // A member that is still at an earlier call of the communicator, with others, is waited for.
  std::vector<std::pair<const Message*, const Message*>> met;
  for (const auto& [m, c, position] : calls) {
    if (m->kind != Message::Kind::receive) continue;
    auto& queue = sent[{c, static_cast<std::size_t>(m->peer), position}];
    if (queue.empty()) return false;
    met.emplace_back(queue.front(), m);
    queue.pop_front();
  }
  for (const auto& [pair, queue] : sent)
    if (!queue.empty()) return false;
  for (const auto& [c, lists] : collectives)
    if (lists.size() < c->members.size()) return false;
  for (const auto& [send, receive] : met) {
    require(send->elements == receive->elements && send->dtype == receive->dtype, "a message of another size");
    std::copy_n(send->from, send->elements * bytes_of(send->dtype), receive->to);
  }
  for (const auto& [c, lists] : collectives) {
    const std::size_t count = lists.begin()->second.size();
    for (const auto& [m, list] : lists) require(list.size() == count, "other numbers of calls");
    for (std::size_t i = 0; i < count; ++i) {
      std::vector<const Message*> each;
      for (const auto& [m, list] : lists) each.push_back(list[i]);
      carry_out_collective(each);
    }
  }
  for (const auto& [p, s] : involved) {
    ++p->carried_;
    p->streams_[s].pop_front();
  }
  return true;
}

bool Machine::step() {
  std::vector<std::pair<Processor*, int>> heads;
  for (Processor* p : open_)
    for (const auto& [s, items] : p->streams_)
      if (!items.empty()) heads.emplace_back(p, s);
  std::shuffle(heads.begin(), heads.end(), random_);
  for (const auto& [p, s] : heads) {
    if (p->number_ == 0 && hang_after >= 0 && p->carried_ >= hang_after) continue;
    if (p->number_ == 0 && fail_after >= 0 && p->carried_ >= fail_after) continue;
    Processor::Item& item = p->streams_[s].front();
    switch (item.kind) {
      case Processor::Item::Kind::wait:
        if (p->done_[item.number] < item.ticket) continue;
        break;
      case Processor::Item::Kind::record:
        p->done_[item.number] = item.ticket;
        break;
      case Processor::Item::Kind::stamp:
        p->stamps_[item.number] = static_cast<double>(
            std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch())
                .count());
        p->pending_stamps_.erase(item.number);
        break;
      case Processor::Item::Kind::command:
        if (std::holds_alternative<Exchange>(item.command)) {
          if (!exchange(*p, s)) continue;
          return true;
        }
        carry(item.command);
        ++p->carried_;
        break;
    }
    p->streams_[s].pop_front();
    return true;
  }
  return false;
}

// ---- processor ----

Processor::Processor(Machine& machine, int number) : machine_(machine), number_(number) {
  const std::scoped_lock lock(machine.mutex_);
  description_ = {"processor " + std::to_string(number), 9, 0, 1, machine.memory_, 1 << 20};
  machine.open_.push_back(this);
  ++machine.live;
}
Processor::~Processor() {
  const std::scoped_lock lock(machine_.mutex_);
  std::erase(machine_.open_, this);
  for (const auto& [c, position] : communicators_) c->members[static_cast<std::size_t>(position)] = nullptr;
  --machine_.live;
}

std::byte* Processor::allocate(std::int64_t bytes, Memory where) {
  if (where == Memory::device) {
    if (used_ + bytes > description_.memory) throw OutOfMemory(bytes, description_.memory - used_);
    used_ += bytes;
  }
  const auto size = static_cast<std::size_t>((bytes + 255) / 256 * 256);
  memory_.emplace_back(static_cast<std::byte*>(std::aligned_alloc(256, size)));
  std::fill_n(memory_.back().get(), size, std::byte{0xff});  // NaN in every format
  return memory_.back().get();
}
void Processor::upload(std::byte* to, std::span<const std::byte> from) { std::copy(from.begin(), from.end(), to); }
void Processor::download(std::span<std::byte> to, const std::byte* from) { std::copy_n(from, to.size(), to.begin()); }

void Processor::put(Item item) {
  const std::scoped_lock lock(machine_.mutex_);
  if (capturing_) {
    const bool begins =
        std::none_of(graph_.begin(), graph_.end(), [&](const Item& i) { return i.stream == item.stream; });
    if (begins && item.stream != 0 && item.kind != Item::Kind::wait)
      throw std::logic_error("a captured stream does not begin with a wait");
    graph_.push_back(std::move(item));
    return;
  }
  if (item.kind == Item::Kind::record) recorded_[item.number] = item.ticket = recorded_[item.number] + 1;
  if (item.kind == Item::Kind::wait) item.ticket = recorded_[item.number];
  if (item.kind == Item::Kind::stamp) pending_stamps_.insert(item.number);
  if (item.kind == Item::Kind::command) machine_.log[number_].push_back(item.command);
  streams_[item.stream].push_back(std::move(item));
}

void Processor::enqueue(const Command& command, int stream) { put({Item::Kind::command, 0, 0, command, stream}); }
void Processor::record(int event, int stream) { put({Item::Kind::record, event, 0, Nothing{}, stream}); }
void Processor::wait(int event, int stream) { put({Item::Kind::wait, event, 0, Nothing{}, stream}); }
void Processor::stamp(int stamp, int stream) { put({Item::Kind::stamp, stamp, 0, Nothing{}, stream}); }
void Processor::flush_cache(int) {}

double Processor::nanoseconds(int from, int to) { return stamps_.at(to) - stamps_.at(from); }
bool Processor::reached(int stamp) {
  if (machine_.lost) return false;
  return pending_stamps_.count(stamp) == 0 && stamps_.count(stamp) != 0;
}

bool Processor::idle() const {
  return std::all_of(streams_.begin(), streams_.end(), [](const auto& s) { return s.second.empty(); });
}

bool Processor::finish(double patience, const std::function<bool()>& give_up) {
  if (capturing_) throw std::logic_error("the host waits while a graph is captured");
  const auto begun = std::chrono::steady_clock::now();
  while (true) {
    {
      const std::scoped_lock lock(machine_.mutex_);
      if (!machine_.failure_.empty()) throw std::runtime_error(machine_.failure_);
      if (number_ == 0 && machine_.fail_after >= 0 && carried_ >= machine_.fail_after)
        throw std::runtime_error("NCCL: a collective: remote process exited");
      try {
        for (int i = 0; i < 64 && !idle(); ++i)
          if (!machine_.step()) break;
      } catch (const std::exception& e) {
        machine_.failure_ = e.what();
        throw;
      }
      if (idle()) return true;
    }
    if (give_up()) return false;
    if (std::chrono::duration<double>(std::chrono::steady_clock::now() - begun).count() > patience) return false;
    std::this_thread::yield();
  }
}

void Processor::begin_capture() {
  capturing_ = true;
  graph_.clear();
  const std::scoped_lock lock(machine_.mutex_);
  ++machine_.captures;
}
void Processor::end_capture() {
  capturing_ = false;
  std::map<int, const Item*> last;
  for (const Item& i : graph_) last[i.stream] = &i;
  for (const auto& [s, i] : last) {
    const bool joined =
        s == 0 || (i->kind == Item::Kind::record && std::any_of(graph_.begin(), graph_.end(), [&](const Item& w) {
                     return w.stream == 0 && w.kind == Item::Kind::wait && w.number == i->number;
                   }));
    if (!joined) throw std::logic_error("a captured stream is not waited for");
  }
}
void Processor::replay() {
  const std::scoped_lock lock(machine_.mutex_);
  ++machine_.replays;
  for (const Item& i : graph_) put(i);
}

int Processor::join(const MeetingId& id, int members, int position) {
  std::unique_lock lock(machine_.mutex_);
  auto& c = machine_.communicators_[id];
  if (c == nullptr) {
    c = std::make_shared<Machine::Communicator>();
    c->members.resize(static_cast<std::size_t>(members));
    c->number.resize(static_cast<std::size_t>(members), -1);
  }
  const auto at = static_cast<std::size_t>(position);
  if (c->members.size() != static_cast<std::size_t>(members) || c->members.at(at) != nullptr)
    throw std::logic_error("members of a communicator disagree");
  c->members[at] = this;
  c->number[at] = static_cast<int>(communicators_.size());
  communicators_.emplace_back(c, position);
  for (int i = 0; machine_.join_waits && std::ranges::find(c->members, nullptr) != c->members.end(); ++i) {
    if (i == 30'000) throw std::runtime_error("members wait for each other in a circle");
    lock.unlock();
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
    lock.lock();
  }
  return c->number[at];
}
void Processor::watch(std::function<bool()>) {}  // no call of it keeps a thread
void Processor::abort() noexcept { aborted_ = true; }

}  // namespace moesim::test
