#include "tests/sim/network/simgrid_peer.hpp"

#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <csignal>
#include <ctime>
#include <map>
#include <simgrid/s4u.hpp>
#include <stdexcept>
#include <string>

namespace moesim::peer {

namespace {

namespace sg = simgrid::s4u;

Result run_here(std::vector<double> capacity, std::vector<Flow> flows) {
  // A cap is a link of one's own. (Comm::set_rate does not reach communications between hosts in 3.32.)
  for (Flow& f : flows) {
    if (f.cap <= 0) continue;
    f.route.push_back(static_cast<int>(capacity.size()));
    capacity.push_back(f.cap);
  }
  std::vector<std::string> words{"peer",
                                 "--cfg=network/model:CM02",
                                 "--cfg=network/TCP-gamma:0",
                                 "--cfg=network/crosstraffic:0",
                                 "--cfg=network/latency-factor:1",
                                 "--cfg=network/bandwidth-factor:1",
                                 "--cfg=network/weight-S:0",
                                 "--cfg=network/loopback-lat:0",
                                 "--cfg=contexts/stack-size:128",
                                 "--log=root.thresh:warning"};
  std::vector<char*> argv;
  for (std::string& w : words) argv.push_back(w.data());
  int argc = static_cast<int>(argv.size());
  sg::Engine engine(&argc, argv.data());

  sg::NetZone* zone = sg::create_full_zone("all");
  std::vector<sg::Link*> links;
  for (std::size_t l = 0; l < capacity.size(); ++l)
    links.push_back(zone->create_link("l" + std::to_string(l), capacity[l])->set_latency(0)->seal());
  // Every route between two of 2 K hosts, K^2 >= routes: a full zone keeps a table of all pairs of hosts.
  std::map<std::vector<int>, std::size_t> number;
  for (const Flow& f : flows) number.emplace(f.route, number.size());
  const auto side = static_cast<std::size_t>(std::ceil(std::sqrt(static_cast<double>(number.size()))));
  std::vector<sg::Host*> from, to;
  for (std::size_t i = 0; i < side; ++i) {
    from.push_back(zone->create_host("from" + std::to_string(i), 1e9)->seal());
    to.push_back(zone->create_host("to" + std::to_string(i), 1e9)->seal());
  }
  for (const auto& [path, n] : number) {
    std::vector<sg::LinkInRoute> route;
    for (const int l : path) route.emplace_back(links[static_cast<std::size_t>(l)]);
    zone->add_route(from[n / side]->get_netpoint(), to[n % side]->get_netpoint(), nullptr, nullptr, route, false);
  }
  sg::Host* home = zone->create_host("home", 1e9)->seal();
  zone->seal();

  std::vector<std::size_t> order(flows.size());
  for (std::size_t i = 0; i < order.size(); ++i) order[i] = i;
  std::stable_sort(order.begin(), order.end(), [&](auto a, auto b) { return flows[a].start < flows[b].start; });
  std::vector<sg::CommPtr> comms(flows.size());
  sg::Actor::create("sender", home, [&] {
    for (const std::size_t i : order) {
      if (flows[i].start > sg::Engine::get_clock()) sg::this_actor::sleep_until(flows[i].start);
      const std::size_t n = number.at(flows[i].route);
      sg::CommPtr comm = sg::Comm::sendto_init();  // it starts by itself once it knows both hosts
      comm->set_payload_size(static_cast<std::uint64_t>(flows[i].bytes));
      comm->set_source(from[n / side]);
      comm->set_destination(to[n % side]);
      comms[i] = comm;
    }
    sg::Comm::wait_all(comms);
  });
  const std::clock_t begin = std::clock();
  engine.run();
  Result out;
  out.seconds = static_cast<double>(std::clock() - begin) / CLOCKS_PER_SEC;
  for (const sg::CommPtr& c : comms) out.finish.push_back(c->get_finish_time());
  return out;
}

void write_all(int fd, const void* data, std::size_t size) {
  const char* at = static_cast<const char*>(data);
  while (size > 0) {
    const ssize_t n = write(fd, at, size);
    if (n <= 0) _exit(3);
    at += n;
    size -= static_cast<std::size_t>(n);
  }
}

bool read_all(int fd, void* data, std::size_t size) {
  char* at = static_cast<char*>(data);
  while (size > 0) {
    const ssize_t n = read(fd, at, size);
    if (n <= 0) return false;
    at += n;
    size -= static_cast<std::size_t>(n);
  }
  return true;
}

}  // namespace

Result simgrid(const std::vector<double>& capacity, const std::vector<Flow>& flows, double limit) {
  int ends[2];
  if (pipe(ends) != 0) throw std::runtime_error("pipe");
  const pid_t child = fork();
  if (child < 0) throw std::runtime_error("fork");
  if (child == 0) {
    close(ends[0]);
    alarm(static_cast<unsigned>(limit) + 1);
    const Result r = run_here(capacity, flows);
    write_all(ends[1], &r.seconds, sizeof r.seconds);
    write_all(ends[1], r.finish.data(), r.finish.size() * sizeof(double));
    _exit(0);
  }
  close(ends[1]);
  Result out;
  out.finish.resize(flows.size());
  const bool ok = read_all(ends[0], &out.seconds, sizeof out.seconds) &&
                  read_all(ends[0], out.finish.data(), out.finish.size() * sizeof(double));
  close(ends[0]);
  int status = 0;
  rusage usage{};
  wait4(child, &status, 0, &usage);
  if (!ok || status != 0) throw std::runtime_error("SimGrid failed, or took longer than its limit");
  out.peak_mb = static_cast<double>(usage.ru_maxrss) / 1024;
  return out;
}

}  // namespace moesim::peer
