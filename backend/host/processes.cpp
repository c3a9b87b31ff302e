#include "backend/host/processes.hpp"

#include <unistd.h>

#include <algorithm>
#include <array>

#include "backend/executor.hpp"

namespace moesim::backend {

std::vector<std::string> tell_all(Transport& transport, std::string_view own, double patience) {
  using Text = std::array<char, most_told + 1>;
  Text said{};
  own.copy(said.data(), most_told);
  std::vector<Text> texts(static_cast<std::size_t>(transport.ranks()), said);
  std::vector<Transport::Message> sends;
  std::vector<Transport::Message> receives;
  for (std::size_t r = 0; r < texts.size(); ++r) {
    if (r == transport.rank().index()) continue;
    sends.push_back({Rank(r), reinterpret_cast<std::byte*>(said.data()), said.size()});
    receives.push_back({Rank(r), reinterpret_cast<std::byte*>(texts[r].data()), said.size()});
  }
  transport.exchange(sends, receives, patience);
  std::vector<std::string> out;
  for (const Text& t : texts) out.emplace_back(t.data());
  return out;
}

void agree(Transport& transport, double patience, const std::function<void()>& step) {
  std::string why;
  try {
    step();
  } catch (const Refused& e) {
    why = e.what();
  }
  for (const std::string& said : tell_all(transport, why, patience))
    if (!said.empty()) throw Refused(said);
}

int place_on_computer(Transport& transport, double patience) {
  std::array<char, 256> name{};
  gethostname(name.data(), name.size() - 1);
  const std::vector<std::string> names = tell_all(transport, name.data(), patience);
  const auto me = static_cast<std::ptrdiff_t>(transport.rank().index());
  return static_cast<int>(std::count(names.begin(), names.begin() + me, names[transport.rank().index()]));
}

std::vector<Marks> gather_marks(Transport& transport, const Marks& own, double patience) {
  std::string said(own.size() * sizeof(Mark), '\0');
  std::copy_n(reinterpret_cast<const char*>(own.data()), said.size(), said.begin());
  const std::vector<std::string> all = transport.gather(said, patience);
  std::vector<Marks> marks(static_cast<std::size_t>(transport.ranks()), Marks(own.size()));
  marks[transport.rank().index()] = own;
  for (std::size_t r = 0; r < all.size(); ++r)
    std::copy_n(all[r].data(), std::min(all[r].size(), said.size()), reinterpret_cast<char*>(marks[r].data()));
  return marks;
}

}  // namespace moesim::backend
