#include "backend/cuda/process_rank.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "backend/host/processes.hpp"

namespace moesim::backend::gpu {

int device_of_process(const Transport& transport, int place, int devices) {
  if (devices == 1 && transport.neighbours() > 1) return 0;
  if (place >= devices)
    throw Refused(
        fmt::format("rank {} is process {} of {} on its computer, which has {} GPUs; start no more processes "
                    "there than it has GPUs",
                    transport.rank().value(), place + 1, transport.neighbours(), devices));
  return place;
}

MeetingId meet_over(Transport& transport, const std::vector<Rank>& group, const std::function<MeetingId()>& make,
                    double patience) {
  // The id's length, then the id.
  std::array<unsigned char, 512> packet{};
  const auto message = [&](Rank peer) {
    return Transport::Message{peer, reinterpret_cast<std::byte*>(packet.data()), packet.size()};
  };
  if (group.front() != transport.rank()) {
    transport.exchange({}, std::array{message(group.front())}, patience);
    return {packet.begin() + 1, packet.begin() + 1 + packet[0]};
  }
  MeetingId id = make();
  if (id.empty() || id.size() > 255) throw std::runtime_error("a communicator's id of an unknown form");
  packet[0] = static_cast<unsigned char>(id.size());
  std::copy(id.begin(), id.end(), packet.begin() + 1);
  std::vector<Transport::Message> sends;
  for (const Rank r : group)
    if (r != transport.rank()) sends.push_back(message(r));
  transport.exchange(sends, {}, patience);
  return id;
}

GpuReport run_process(const Plan& plan, const Inputs& inputs, Device& device, Transport& transport,
                      const std::function<MeetingId()>& new_meeting, const GpuRuns& how) {
  std::unique_ptr<GpuRank> me;
  agree(transport, how.patience, [&] { me = std::make_unique<GpuRank>(plan, inputs, transport.rank(), device); });
  me->join([&](const GpuRank::Meeting& at) { return meet_over(transport, at.members, new_meeting, how.patience); });
  GpuRank::Run run{how.patience, true, false, {}};
  for (int i = 0; i < how.runs; ++i) {
    if (how.graph && i == 1) {
      agree(transport, how.patience, [&] { me->capture(); });
      run.replay = true;
    }
    const Marks own = me->run(run);
    std::vector<Marks> marks = gather_marks(transport, own, how.patience);
    if (transport.rank() == Rank(0)) meet(plan, marks);
    how.done(std::move(marks));
  }
  // Slowest rank of one run with and one without the stamps, and the rank with most memory.
  run.replay = false;
  std::array<std::int64_t, 4> own{};
  for (const bool stamps : {true, false}) {
    run.stamps = stamps;
    me->run(run);
    own[stamps ? 0 : 1] = me->makespan();
  }
  own[2] = me->program().arena().device_bytes;
  own[3] = me->program().extra_bytes();
  std::array<std::int64_t, 4> most = own;
  for (const std::string& said :
       transport.gather(fmt::format("{} {} {} {}", own[0], own[1], own[2], own[3]), how.patience)) {
    std::size_t at = 0;
    for (std::int64_t& m : most) {
      std::size_t used = 0;
      m = std::max<std::int64_t>(m, std::stoll(said.substr(at), &used));
      at += used;
    }
  }
  // Who leaves takes memory and threads of NCCL along that another's last calls may still need.
  agree(transport, how.patience, [] {});
  const double with = static_cast<double>(most[0]);
  const double without = static_cast<double>(most[1]);
  return {without > 0 ? (with - without) / without : 0, most[2], most[3]};
}

}  // namespace moesim::backend::gpu
