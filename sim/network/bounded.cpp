#include "sim/network/bounded.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

#include "sim/network/exact.hpp"

namespace moesim::sim {

namespace {
constexpr double per_ps = 1e-12;
constexpr double infinite = std::numeric_limits<double>::infinity();
}  // namespace

BoundedComponent::BoundedComponent(Surroundings& around, Picoseconds now, std::vector<Entry>& entries, bool join)
    : Component(around, now, entries, false, join),
      eta_(goal_.size()),
      end_eta_(goal_.size()),
      before_(goal_.size()),
      idle_(fill_->links()),
      idled_(fill_->links()),
      was_full_(fill_->links()),
      spare_(fill_->links()),
      gain_(fill_->links()),
      loss_(fill_->links()),
      give_(fill_->links()),
      holds_until_(fill_->links()) {
  for (const Member& m : members_)
    if (transfers_.empty() || transfers_.back() != m.transfer) transfers_.push_back(m.transfer);
  std::ranges::sort(transfers_);
  transfers_.erase(std::unique(transfers_.begin(), transfers_.end()), transfers_.end());
  if (solve()) start();
}

bool BoundedComponent::solve() {
  broken_ = !fill_->fill();
  for (std::uint32_t c = 0; c < rate_.size(); ++c) rate_[c] = fill_->gone(c) || broken_ ? 0 : rate_of(c);
  return !broken_;
}

double BoundedComponent::idled(std::uint32_t c) const {
  double most = 0;
  if (!any_idled_) return most;
  for (const std::uint32_t l : fill_->hops(c)) most = std::max(most, idled_[l]);
  return most;
}

double BoundedComponent::idle(std::uint32_t l, Picoseconds until) const {
  const auto h = static_cast<double>((until - time_).value());
  return std::clamp(idle_[l].bytes(h) / fill_->capacity(l) / per_ps, 0.0, h);
}

void BoundedComponent::lose(std::uint32_t l, double ps) {
  idled_[l] += ps;
  any_idled_ = any_idled_ || ps > 0;
}

double BoundedComponent::served_at(std::uint32_t c, Picoseconds now) const {
  return served_[c] + rate_[c] * (static_cast<double>((now - time_).value()) * per_ps);
}

// How far the bracket of what is under way here is open, ps. Of one transfer alone only what might end last counts.
double BoundedComponent::open(double longest) const {
  double most = 0, soonest = 0, latest = 0;  // that the last of all might end
  for (std::uint32_t c = 0; c < eta_.size(); ++c) {
    if (fill_->gone(c)) continue;
    const std::uint32_t p = members_[end_of_[c] - 1].path;
    const double early = sooner(c, p), late = later(c, p);
    most = std::max(most, std::max(early, late));
    soonest = std::max(soonest, end_eta_[c] - early);
    latest = std::max(latest, end_eta_[c] + late);
  }
  return transfers_.size() > 1 ? most : std::max(longest - soonest, latest - longest);
}

// How long a full link may idle in the next batch, ps. A transfer of makespan T may be off by error * T, of which b is
// left for the time tau that is left. Let completions fall evenly over tau, then a batch of length h idles a link for
// h^2 / (2 tau), and the fewest batches that idle b together are those that idle b^2 / (2 tau) each. share_out() makes
// up for most of it, how much depends on the flows: the first batch may idle 32 times that, and the next ones more or
// less, so that the bracket opens by b h / tau in h. A batch never idles more than a quarter of b. A tenth of
// error * T is kept for the end: what the bracket opens by is known after the batch.
double BoundedComponent::allowance(double longest) {
  double makespan = infinite, tau = 0;
  for (const std::uint32_t id : transfers_) {
    const Transfers::Transfer& t = around_.transfers.at(id);
    if (t.flows == 0) continue;
    makespan = std::min(makespan, static_cast<double>(std::max(t.least, time_ - t.start).value()));
    tau = std::max(tau, static_cast<double>((t.start + t.least - time_).value()));
  }
  tau = tau > 0 ? std::min(tau, longest) : longest;
  const double asked = around_.fidelity.error * makespan, now_open = open(longest);
  const double b = std::max(0.9 * asked - now_open, 0.02 * asked);
  const double due = b * last_step_ / tau, opened = now_open - open_;
  if (last_step_ == 0)
    allowed_ = 16 * b * b / tau;
  else if (opened > due)
    allowed_ /= 2;
  else if (opened < due / 2)
    allowed_ *= 1.5;
  open_ = now_open;
  return allowed_ = std::clamp(allowed_, b / 100, b / 4);
}

// Flows that end within h, by when.
void BoundedComponent::gather(double h) {
  soon_.clear();
  for (std::uint32_t c = 0; c < eta_.size(); ++c) {
    if (!(eta_[c] <= h)) continue;
    soon_.push_back({eta_[c], c, first_[c]});
    for (std::uint32_t m = first_[c] + 1; m < end_of_[c]; ++m) {
      const double eta = std::max(members_[m].target - served_[c], 0.0) / per_ps / rate_[c];
      if (eta > h) break;
      soon_.push_back({eta, c, m});
    }
  }
  std::ranges::sort(soon_,
                    [](const Soon& a, const Soon& b) { return a.eta != b.eta ? a.eta < b.eta : a.member < b.member; });
}

void BoundedComponent::clear_idle() {
  for (const std::uint32_t l : idle_links_) idle_[l] = {};
  idle_links_.clear();
}

void BoundedComponent::add_idle(std::span<const std::uint32_t> path, double rate, double eta) {
  for (const std::uint32_t l : path) {
    if (idle_[l].rate == 0) idle_links_.push_back(l);
    idle_[l].rate += rate;
    idle_[l].rate_eta += rate * eta;
  }
}

// How many of soon_ make the next batch. A link that is full idles for (sum x h - sum x eta) / C at h, sums over those
// of its flows that end before: h is where the first link has idled for `allowed`. More flows only bring it closer.
// A link that no longer holds any flow back may idle.
std::size_t BoundedComponent::longest_batch(double allowed) {
  clear_idle();
  double limit = infinite;
  std::size_t n = 0;
  for (; n < soon_.size() && soon_[n].eta <= limit; ++n) {
    const auto links = path(members_[soon_[n].member]);
    add_idle(links, rate_[soon_[n].c], soon_[n].eta);
    for (const std::uint32_t l : links)
      if (holds_until_[l] > 0) {
        const double h = (allowed * fill_->capacity(l) + idle_[l].rate_eta) / idle_[l].rate;
        if (h < holds_until_[l]) limit = std::min(limit, h);
      }
  }
  return n;
}

void BoundedComponent::plan() {
  double least = infinite, longest = 0;
  std::ranges::fill(holds_until_, 0);
  for (std::uint32_t c = 0; c < eta_.size(); ++c) {
    if (fill_->gone(c)) continue;
    eta_[c] = std::max(goal_[c] - served_[c], 0.0) / per_ps / rate_[c];
    end_eta_[c] = std::max(members_[end_of_[c] - 1].target - served_[c], 0.0) / per_ps / rate_[c];
    least = std::min(least, eta_[c]);
    longest = std::max(longest, end_eta_[c]);
    for (const std::uint32_t l : fill_->hops(c))
      if (fill_->holds(l, c)) holds_until_[l] = std::max(holds_until_[l], end_eta_[c]);
  }
  const double allowed = allowance(longest);
  double h = std::max(least, 2 * last_step_);
  gather(h);
  std::size_t n = longest_batch(allowed);
  while (n == soon_.size() && h < longest) {
    h = std::min(2 * h + 1, longest);
    gather(h);
    n = longest_batch(allowed);
  }
  soon_.resize(n);
  end_batch();
}

// In the batch, what earlier ends leave unused speeds up those that are still there. A link that is full has idled for
// w = (sum x eta' - sum x eta) / C by eta', and had it been used, everything on it would end w sooner. A flow ends
// sooner by the least w of its full links, but no flow is faster than its cap.
void BoundedComponent::end_batch() {
  clear_idle();
  for (const Soon& s : soon_) {
    double least = infinite, most = 0;
    const auto links = path(members_[s.member]);
    for (const std::uint32_t l : links) {
      if (!fill_->full(l)) continue;
      const double w = idle_[l].bytes(s.eta) / per_ps / fill_->capacity(l);
      least = std::min(least, w);
      if (fill_->holds(l, s.c)) most = std::max(most, w);
    }
    if (least == infinite) least = 0;
    const double at_cap = s.eta * (fill_->level(s.c) / fill_->cap(s.c));
    const std::int64_t eta = detail::checked_round_up(std::max(s.eta - least, at_cap));
    batch_.push_back({time_ + Picoseconds(eta), s.c, s.member, s.eta, std::max(most - least, 0.0)});
    add_idle(links, rate_[s.c], s.eta);
  }
  std::ranges::sort(batch_, [](const Ending& a, const Ending& b) {
    return a.time != b.time ? a.time < b.time : a.member < b.member;
  });
  end_ = batch_.back().time;
}

// Flows of the batch end on the way to `now`, at the rates of its beginning.
void BoundedComponent::step(Picoseconds now) {
  const auto h = static_cast<double>((now - time_).value());
  clear_idle();
  double slip = 0;
  for (std::size_t i = 0; i < ended_; ++i)
    add_idle(path(members_[batch_[i].member]), rate_[batch_[i].c], batch_[i].eta);
  for (const std::uint32_t l : idle_links_)
    if (fill_->full(l)) slip = std::max(slip, idle(l, now));
  count_full(now);

  for (std::uint32_t c = 0; c < served_.size(); ++c) served_[c] += rate_[c] * (h * per_ps);
  for (std::size_t i = 0; i < ended_; ++i) retire(batch_[i]);
  time_ = now;
  last_step_ = h;
  if (live_ == 0 || ended_ == 0) return;
  std::swap(before_, rate_);
  for (std::uint32_t l = 0; l < spare_.size(); ++l) {
    spare_[l] = fill_->left(l);
    was_full_[l] = fill_->full(l) ? 1 : 0;
  }
  for (const Ending& e : std::span(batch_).first(ended_))
    if (fill_->gone(e.c)) eta_[e.c] = infinite;
  if (solve()) {
    if (slip > 0) share_out(h);
  } else {  // what the batch left unused is lost
    for (const std::uint32_t l : idle_links_)
      if (was_full_[l] != 0) lose(l, idle_[l].bytes(h) / fill_->capacity(l) / per_ps);
  }
}

// What the batch left unused goes to those that have more rate after it (d = rate after - before > 0), as if rates had
// changed at one moment within the batch; h (1 - theta) into it:
//   theta   = (bytes left unused) / (rates that ended * h), over all links
//   theta_l = what link l can give: (spare + bytes left unused / h + theta * losses) / gains there, at most 1
//   a flow that gains moves d h min over its links of theta_l more;
//   a flow that loses moves |d| h max over its links of (those gains - spare - unused / h) / losses less, at most
//   theta.
// No link carries more than its capacity over the batch. Had rates changed at its beginning (releasing early) or at its
// end (late), the factors were 1 or 0: ahead_ and behind_ keep what that would have made.
void BoundedComponent::share_out(double h) {
  double unused = 0, ended = 0;
  for (const std::uint32_t l : idle_links_) {
    unused += idle_[l].bytes(h) / per_ps;
    ended += idle_[l].rate * h;
  }
  const double theta = std::min(unused / ended, 1.0);
  const auto room = [&](std::size_t l) { return spare_[l] + idle_[l].bytes(h) / (h * per_ps); };
  // `rate` more for every flow of a class.
  const auto add = [&](std::vector<double>& to, std::uint32_t c, double rate) {
    const auto links = fill_->hops(c);
    const auto loads = fill_->hop_loads(c);
    for (std::size_t i = 0; i < links.size(); ++i) to[links[i]] += rate / classes_.weight[c] * loads[i];
  };
  std::ranges::fill(gain_, 0);
  std::ranges::fill(loss_, 0);
  for (std::uint32_t c = 0; c < rate_.size(); ++c) {
    const double d = rate_[c] - before_[c];
    if (d == 0 || fill_->gone(c)) continue;
    add(d > 0 ? gain_ : loss_, c, std::abs(d));
  }
  for (std::size_t l = 0; l < gain_.size(); ++l) {
    give_[l] = gain_[l] > 0 ? std::min(1.0, (room(l) + theta * loss_[l]) / gain_[l]) : 1.0;
    gain_[l] = 0;
  }
  const double seconds = h * per_ps;
  double first = 0;  // part of the batch after the first end
  for (const Ending& e : std::span(batch_).first(ended_)) first = std::max(first, 1 - e.eta / h);
  for (std::uint32_t c = 0; c < rate_.size(); ++c) {
    const double d = rate_[c] - before_[c];
    if (!(d > 0) || fill_->gone(c)) continue;
    double part = 1;
    for (const std::uint32_t l : fill_->hops(c)) part = std::min(part, give_[l]);
    add(gain_, c, part * d);
    served_[c] += d * seconds * part;
    late_[c] += part * h * d / rate_[c];
    early_[c] += (first - part) * h * d / rate_[c];
  }
  for (std::size_t l = 0; l < gain_.size(); ++l)
    give_[l] = loss_[l] > 0 ? std::clamp((gain_[l] - room(l)) / loss_[l], 0.0, theta) : 0.0;
  for (std::uint32_t c = 0; c < rate_.size(); ++c) {
    const double d = rate_[c] - before_[c];
    if (!(d < 0) || fill_->gone(c)) continue;
    double part = 0;
    for (const std::uint32_t l : fill_->hops(c)) part = std::max(part, give_[l]);
    served_[c] += d * seconds * part;
    late_[c] += part * h * d / rate_[c];
    early_[c] += (first - part) * h * d / rate_[c];
  }
  // What is still unused on a full link is lost.
  for (std::uint32_t l = 0; l < gain_.size(); ++l)
    if (was_full_[l] != 0 && fill_->full(l)) {
      const double used = gain_[l] - give_[l] * loss_[l];
      lose(l, std::max(room(l) - used, 0.0) * h / fill_->capacity(l));
    }
}

std::unique_ptr<Component> make_component(Surroundings& around, Picoseconds now, std::vector<Entry> entries) {
  if (around.fidelity.kind == Fidelity::Kind::exact || entries.size() <= Fidelity::always_exact)
    return std::make_unique<ExactComponent>(around, now, entries);
  auto joined = std::make_unique<BoundedComponent>(around, now, entries, true);
  if (!joined->broken()) return joined;
  return std::make_unique<BoundedComponent>(around, now, entries, false);
}

}  // namespace moesim::sim
