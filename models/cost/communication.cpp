#include "models/cost/communication.hpp"

#include "models/cost/fitted.hpp"

namespace moesim::cost {

std::optional<Communication> communication(const FitFile& fits, const Fabric& fabric, double link, double nic,
                                           const std::string& library) {
  const FitEntry* entry = find_entry(fits, "nccl", "", library);
  if (entry == nullptr) return std::nullopt;
  Communication out{fabric, link, nic, from_map(collective_fields(), entry->parameters), {}, {}};
  const auto exchange = [&](std::string_view kernel) -> std::optional<ExchangeParameters> {
    const FitEntry* e = find_entry(fits, "deepep", kernel);
    return e ? std::optional(from_map(exchange_fields(), e->parameters)) : std::nullopt;
  };
  out.dispatch = exchange("dispatch");
  out.combine = exchange("combine");
  return out;
}

}  // namespace moesim::cost
