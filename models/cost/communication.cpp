#include "models/cost/communication.hpp"

#include "models/cost/fitted.hpp"

namespace moesim::cost {

std::optional<Communication> communication(const FitFile& fits, const Fabric& fabric, double link, double nic,
                                           const std::string& library) {
  const FitEntry* entry = find_entry(fits, "nccl", "", library);
  if (entry == nullptr) return std::nullopt;
  Communication out;
  out.fabric = fabric;
  out.link = link;
  out.nic = nic;
  out.nccl = from_map(collective_fields(), entry->parameters);
  const auto kernel = [&](auto& parameters, auto fields, std::string_view name) {
    if (const FitEntry* e = find_entry(fits, "deepep", name)) parameters = from_map(fields, e->parameters);
  };
  kernel(out.dispatch, exchange_fields(), "dispatch");
  kernel(out.combine, exchange_fields(), "combine");
  kernel(out.quick_dispatch, low_latency_fields(), "low-latency dispatch");
  kernel(out.quick_combine, low_latency_fields(), "low-latency combine");
  return out;
}

}  // namespace moesim::cost
