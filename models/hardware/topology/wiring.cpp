#include "models/hardware/topology/wiring.hpp"

#include <fmt/format.h>

#include <algorithm>

namespace moesim::hardware {

VertexId Wiring::add(std::string scope, std::string name) {
  return boost::add_vertex(Vertex{std::move(scope), std::move(name)}, graph);
}

Port Wiring::add_gpu(const std::string& scope, const std::string& name, bool relays) {
  const VertexId out = add(scope, name);
  return {out, relays ? out : add(scope, name)};
}

LinkId Wiring::link(const Vertex& a, const Vertex& b, const Cable& cable, Picoseconds crossing) {
  const LinkId id(links.size());
  const BytesPerSecond nominal = cable.spec.nominal * cable.count;
  links.push_back(Link{.name = fmt::format("{}{}>{}{}", a.scope, a.name, a.scope == b.scope ? "" : b.scope, b.name),
                       .kind = cable.kind,
                       .capacity = nominal * cable.spec.efficiency,
                       .nominal = nominal,
                       .latency = cable.spec.latency + crossing});
  return id;
}

void Wiring::lay(VertexId from, VertexId to, LinkId link) { boost::add_edge(from, to, Wire{link}, graph); }

LinkId Wiring::wire(VertexId from, VertexId to, const Cable& cable, Picoseconds crossing) {
  const LinkId id = link(graph[from], graph[to], cable, crossing);
  lay(from, to, id);
  return id;
}

Wiring::Duplex Wiring::connect(Port a, Port b, const Cable& cable) {
  const LinkId there = wire(a.out, b.in, cable, cable.into);
  return {there, wire(b.out, a.in, cable, cable.back)};
}

Wiring wire(const TopologySpec& spec, bool relays) {
  Wiring w;
  w.nodes = spec.nodes;
  wire_network(w, spec, wire_nodes(w, spec, relays));
  degrade(w, spec.degraded);
  return w;
}

bool glob_match(std::string_view pattern, std::string_view text) {
  std::size_t p = 0, t = 0, star = std::string_view::npos, retry = 0;
  while (t < text.size()) {
    if (p < pattern.size() && pattern[p] == '*') {
      star = p++;
      retry = t;
    } else if (p < pattern.size() && (pattern[p] == '?' || pattern[p] == text[t])) {
      ++p;
      ++t;
    } else if (star != std::string_view::npos) {
      p = star + 1;
      t = ++retry;
    } else {
      return false;
    }
  }
  return std::all_of(pattern.begin() + static_cast<std::ptrdiff_t>(p), pattern.end(), [](char c) { return c == '*'; });
}

void degrade(Wiring& w, const std::vector<Degradation>& degraded) {
  std::vector<Diagnostic> faults;
  std::vector<double> factor(w.links.size(), 1.0);
  for (const Degradation& d : degraded) {
    bool matched = false;
    for (std::size_t l = 0; l < w.links.size(); ++l)
      if (glob_match(d.links, w.links[l].name)) {
        factor[l] *= d.factor;
        matched = true;
      }
    if (matched) continue;
    std::vector<std::string_view> names;
    for (const Link& link : w.links) names.push_back(link.name);
    const std::string_view near = nearest_name(d.links, names);
    faults.push_back({{},
                      fmt::format("degraded links \"{}\" match no link of the cluster", d.links),
                      near.empty() ? fmt::format("links are named like \"{}\"", w.links.empty() ? "" : w.links[0].name)
                                   : fmt::format("did you mean \"{}\"?", near)});
  }
  if (!faults.empty()) throw InputError(std::move(faults));

  std::vector<LinkId> renumbered(w.links.size());
  std::vector<Link> kept;
  for (std::size_t l = 0; l < w.links.size(); ++l) {
    if (factor[l] == 0) continue;
    renumbered[l] = LinkId(kept.size());
    kept.push_back(std::move(w.links[l]));
    kept.back().capacity = kept.back().capacity * factor[l];
    kept.back().nominal = kept.back().nominal * factor[l];
  }
  w.links = std::move(kept);
  boost::remove_edge_if([&](auto edge) { return !renumbered[w.graph[edge].link.index()].valid(); }, w.graph);
  for (auto [edge, end] = boost::edges(w.graph); edge != end; ++edge)
    w.graph[*edge].link = renumbered[w.graph[*edge].link.index()];
}

}  // namespace moesim::hardware
