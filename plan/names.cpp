#include "plan/names.hpp"

namespace moesim {

std::string_view to_string(BufferRole v) { return name_of(buffer_role_names, v); }
std::string_view to_string(Category v) { return name_of(category_names, v); }
std::string_view to_string(Pass v) { return name_of(pass_names, v); }
std::string_view to_string(Collective::Kind v) { return name_of(collective_names, v); }

std::string_view to_string(const Work& work) {
  struct Name {
    std::string_view operator()(const Gemm&) const { return "gemm"; }
    std::string_view operator()(const GroupedGemm&) const { return "grouped_gemm"; }
    std::string_view operator()(const AttentionCore&) const { return "attention_core"; }
    std::string_view operator()(const Elementwise& e) const { return name_of(elementwise_names, e.fn); }
    std::string_view operator()(const Permute&) const { return "permute"; }
    std::string_view operator()(const Copy&) const { return "copy"; }
    std::string_view operator()(const HostSync&) const { return "host_sync"; }
    std::string_view operator()(const Collective& c) const { return to_string(c.kind); }
  };
  return std::visit(Name{}, work);
}

}  // namespace moesim
