#include "models/fit/rows.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "models/fit/row_reader.hpp"

namespace moesim::fit {

std::string_view to_string(Schema schema) {
  switch (schema) {
    case Schema::gemm:
      return "gemm";
    case Schema::moe_kernel:
      return "moe_kernel";
    case Schema::nccl:
      return "nccl";
    case Schema::deepep:
      return "deepep";
    case Schema::device:
      return "device";
  }
  return "gemm";
}

RowReader::RowReader(const CsvTable& table, const std::vector<std::string_view>& required, Faults& faults)
    : table_(table), faults_(faults) {
  for (const std::string_view column : required) {
    if (has(column)) continue;
    complete_ = false;
    const std::string_view near = nearest_name(column, table.header());
    faults.add({table.file(), 1, 1}, fmt::format("the column '{}' is missing", column),
               near.empty() ? "" : fmt::format("did '{}' mean it?", near));
  }
}

void RowReader::start(std::size_t row) {
  row_ = row;
  good_ = true;
}

void RowReader::fault(std::string_view column, std::string message, std::string hint) {
  good_ = false;
  faults_.add(table_.place(row_, table_.find(column).value_or(0)), std::move(message), std::move(hint));
}

std::string RowReader::text(std::string_view column, std::string_view absent) {
  const auto at = table_.find(column);
  return std::string(at ? table_.cell(row_, *at) : absent);
}

std::int64_t RowReader::count(std::string_view column, std::int64_t absent) {
  const auto at = table_.find(column);
  if (!at) return absent;
  const std::string_view cell = table_.cell(row_, *at);
  const auto value = parse_int(cell);
  if (value && *value >= 1 && *value <= std::int64_t{1} << 40) return *value;
  fault(column, value ? fmt::format("'{}' is {}: at least 1 is due", column, *value)
                      : fmt::format("'{}' is '{}': a whole number is due", column, cell));
  return 1;
}

double RowReader::time_us(std::string_view column) {
  const auto at = table_.find(column);
  const std::string_view cell = table_.cell(row_, *at);
  const auto value = parse_real(cell);
  if (value && *value > 0) return *value;
  fault(column, value ? fmt::format("'{}' is {} us: a measured time is above 0", column, *value)
                      : fmt::format("'{}' is '{}': a number is due", column, cell));
  return 1;
}

namespace {

Origin origin(RowReader& r, std::string dtype) {
  return {r.text("gpu", r.text("system")), r.text("library"), std::move(dtype), r.place()};
}

std::string group_key(const Origin& o) { return o.gpu + '\t' + o.library + '\t' + o.dtype + '\t'; }

void parse_gemm(const CsvTable& table, Faults& faults, std::vector<GemmRow>& rows) {
  RowReader r(table, {"gpu", "library", "dtype", "m", "n", "k", "time_us"}, faults);
  if (!r.has_columns()) return;
  for (std::size_t i = 0; i < table.rows(); ++i) {
    r.start(i);
    GemmRow row{origin(r, r.text("dtype")), r.count("m"), r.count("n"), r.count("k"), r.time_us("time_us")};
    if (r.good()) rows.push_back(std::move(row));
  }
}

void parse_experts(const CsvTable& table, Faults& faults, std::vector<ExpertRow>& rows) {
  RowReader r(table,
              {"gpu", "library", "kernel_source", "dtype", "hidden_size", "inter_size", "topk", "num_experts",
               "moe_tp_size", "moe_ep_size", "distribution", "num_tokens", "time_us"},
              faults);
  if (!r.has_columns()) return;
  for (std::size_t i = 0; i < table.rows(); ++i) {
    r.start(i);
    ExpertRow row;
    row.origin = origin(r, r.text("dtype"));
    const std::string kernel = r.text("kernel_source");
    row.gated = r.text("gated", kernel.ends_with("_nongated") ? "0" : "1") != "0";
    row.origin.library += " " + kernel;
    row.hidden = r.count("hidden_size");
    row.inter = r.count("inter_size");
    row.top_k = r.count("topk");
    row.experts = r.count("num_experts");
    row.tp = static_cast<int>(r.count("moe_tp_size"));
    row.ep = static_cast<int>(r.count("moe_ep_size"));
    row.tokens = r.count("num_tokens");
    row.us = r.time_us("time_us");
    const std::string distribution = r.text("distribution");
    constexpr std::string_view law = "power_law_";
    if (distribution.starts_with(law)) {
      const auto exponent = parse_real(std::string_view(distribution).substr(law.size()));
      if (exponent && *exponent > 0)
        row.power_law = *exponent;
      else
        r.fault("distribution", fmt::format("'{}' has no exponent", distribution), "as in power_law_1.01");
    } else if (distribution != "balanced") {
      r.fault("distribution", fmt::format("unknown distribution '{}'", distribution),
              "balanced, or power_law_EXPONENT");
    }
    if (row.top_k > row.experts)
      r.fault("topk", fmt::format("topk is {} and num_experts only {}", row.top_k, row.experts));
    if (row.experts % row.ep != 0)
      r.fault("moe_ep_size", fmt::format("{} experts do not divide by moe_ep_size {}", row.experts, row.ep));
    if (row.inter % row.tp != 0)
      r.fault("moe_tp_size", fmt::format("inter_size {} does not divide by moe_tp_size {}", row.inter, row.tp));
    if (r.good()) rows.push_back(std::move(row));
  }
}

// Two forms: `message_bytes`, `time_us`; or nccl-tests' own words `size_bytes`, `out_of_place_us`, `in_place_us`.
void parse_collectives(const CsvTable& table, Faults& faults, std::vector<CollectiveRow>& rows) {
  const bool tests_form = table.find("size_bytes").has_value();
  RowReader r(
      table,
      tests_form
          ? std::vector<std::string_view>{"gpu", "num_gpus", "op", "size_bytes", "out_of_place_us", "in_place_us"}
          : std::vector<std::string_view>{"gpu", "library", "op", "num_gpus", "message_bytes", "time_us"},
      faults);
  if (!r.has_columns()) return;
  for (std::size_t i = 0; i < table.rows(); ++i) {
    r.start(i);
    CollectiveRow row;
    row.origin = origin(r, "");
    if (row.origin.library.empty()) row.origin.library = "nccl";
    const auto kind = cost::parse_collective(r.text("op"));
    if (kind)
      row.shape.kind = *kind;
    else
      r.fault("op", fmt::format("unknown operation '{}'", r.text("op")),
              "all_gather, reduce_scatter, all_reduce or alltoall");
    row.shape.gpus = static_cast<int>(r.count("num_gpus"));
    row.shape.nodes = static_cast<int>(r.count("num_nodes"));
    if (row.shape.gpus < 2) r.fault("num_gpus", "a collective needs at least 2 GPUs");
    if (row.shape.gpus % row.shape.nodes != 0)
      r.fault("num_nodes", fmt::format("{} GPUs do not divide by {} nodes", row.shape.gpus, row.shape.nodes));
    row.shape.bytes = static_cast<double>(r.count(tests_form ? "size_bytes" : "message_bytes"));
    // The first out-of-place rows of a table carry warm-up; the shorter of the two forms does not.
    row.us = tests_form ? std::min(r.time_us("out_of_place_us"), r.time_us("in_place_us")) : r.time_us("time_us");
    if (r.good()) rows.push_back(std::move(row));
  }
}

// Two forms: normal mode with `dispatch_transmit_us`, low-latency mode with `dispatch_avg_t_us`.
void parse_exchanges(const CsvTable& table, Faults& faults, std::vector<ExchangeRow>& rows) {
  const bool low_latency = table.find("dispatch_avg_t_us").has_value();
  std::vector<std::string_view> required{"system", "node_num", "hidden_size", "num_topk", "num_experts", "num_tokens"};
  if (low_latency)
    required.insert(required.end(), {"dispatch_avg_t_us", "combine_avg_t_us"});
  else
    required.insert(required.end(), {"dispatch_sms", "dispatch_transmit_us", "combine_sms", "combine_transmit_us"});
  RowReader r(table, required, faults);
  if (!r.has_columns()) return;
  for (std::size_t i = 0; i < table.rows(); ++i) {
    r.start(i);
    ExchangeRow row;
    row.shape.low_latency = low_latency;
    row.shape.nodes = static_cast<int>(r.count("node_num"));
    row.shape.hidden = static_cast<double>(r.count("hidden_size"));
    row.shape.top_k = static_cast<double>(r.count("num_topk"));
    row.shape.experts = static_cast<double>(r.count("num_experts"));
    row.shape.tokens = static_cast<double>(r.count("num_tokens"));
    if (row.shape.top_k > row.shape.experts)
      r.fault("num_topk", fmt::format("num_topk is {} and num_experts only {}", row.shape.top_k, row.shape.experts));
    const std::string mode = low_latency ? "low-latency " : "";
    ExchangeRow combine = row;
    row.shape.kind = cost::ExchangeKind::dispatch;
    row.shape.bytes_per_element = 1 + 4.0 / 128;  // FP8 and one float32 scale per 128 elements
    combine.shape.kind = cost::ExchangeKind::combine;
    combine.shape.bytes_per_element = 2;
    row.origin = origin(r, mode + "dispatch");
    combine.origin = origin(r, mode + "combine");
    if (!low_latency) {
      row.shape.sms = static_cast<double>(r.count("dispatch_sms"));
      combine.shape.sms = static_cast<double>(r.count("combine_sms"));
    }
    row.us = r.time_us(low_latency ? "dispatch_avg_t_us" : "dispatch_transmit_us");
    combine.us = r.time_us(low_latency ? "combine_avg_t_us" : "combine_transmit_us");
    if (row.origin.library.empty()) row.origin.library = combine.origin.library = "deepep";
    if (!r.good()) continue;
    rows.push_back(std::move(row));
    rows.push_back(std::move(combine));
  }
}

void parse_device(const CsvTable& table, Faults& faults, std::vector<DeviceRow>& rows) {
  RowReader r(table, {"gpu", "library", "cost", "shape", "amount", "time_us"}, faults);
  if (!r.has_columns()) return;
  std::vector<std::string_view> names;
  for (const cost::DeviceCost c : cost::all_device_costs) names.push_back(to_string(c));
  for (std::size_t i = 0; i < table.rows(); ++i) {
    r.start(i);
    const std::string name = r.text("cost");
    DeviceRow row;
    row.origin = origin(r, name);
    row.shape = r.text("shape");
    row.amount = static_cast<double>(r.count("amount"));
    row.us = r.time_us("time_us");
    const auto at = std::find(names.begin(), names.end(), name);
    if (at == names.end())
      r.fault("cost", fmt::format("unknown cost '{}'", name), fmt::format("{}", fmt::join(names, ", ")));
    else
      row.cost = cost::all_device_costs[static_cast<std::size_t>(at - names.begin())];
    if (r.good()) rows.push_back(std::move(row));
  }
}

}  // namespace

std::vector<GemmRow> read_gemm(const std::vector<std::string>& files, const std::string& gpu) {
  auto rows = read_tables<GemmRow>(files, parse_gemm);
  keep_one_gpu(rows, gpu);
  return merge_repeats<GemmRow>(
      std::move(rows), [](const GemmRow& r) { return fmt::format("{}{} {} {}", group_key(r.origin), r.m, r.n, r.k); });
}

std::vector<ExpertRow> read_experts(const std::vector<std::string>& files, const std::string& gpu) {
  auto rows = read_tables<ExpertRow>(files, parse_experts);
  keep_one_gpu(rows, gpu);
  return merge_repeats<ExpertRow>(std::move(rows), [](const ExpertRow& r) {
    return fmt::format("{}{} {} {} {} {} {} {} {}", group_key(r.origin), r.hidden, r.inter, r.top_k, r.experts, r.tp,
                       r.ep, r.power_law, r.tokens);
  });
}

std::vector<CollectiveRow> read_collectives(const std::vector<std::string>& files, const std::string& gpu) {
  auto rows = read_tables<CollectiveRow>(files, parse_collectives);
  keep_one_gpu(rows, gpu);
  return merge_repeats<CollectiveRow>(std::move(rows), [](const CollectiveRow& r) {
    return fmt::format("{}{} {} {} {}", group_key(r.origin), to_string(r.shape.kind), r.shape.gpus, r.shape.nodes,
                       r.shape.bytes);
  });
}

std::vector<DeviceRow> read_device(const std::vector<std::string>& files, const std::string& gpu) {
  auto rows = read_tables<DeviceRow>(files, parse_device);
  keep_one_gpu(rows, gpu);
  return merge_repeats<DeviceRow>(std::move(rows), [](const DeviceRow& r) {
    return fmt::format("{}{} {}", group_key(r.origin), r.shape, r.amount);
  });
}

std::vector<ExchangeRow> read_exchanges(const std::vector<std::string>& files, const std::string& gpu) {
  auto rows = read_tables<ExchangeRow>(files, parse_exchanges);
  keep_one_gpu(rows, gpu);
  return merge_repeats<ExchangeRow>(std::move(rows), [](const ExchangeRow& r) {
    return fmt::format("{}{} {} {} {} {} {}", group_key(r.origin), r.shape.hidden, r.shape.top_k, r.shape.experts,
                       r.shape.nodes, r.shape.tokens, r.shape.sms);
  });
}

}  // namespace moesim::fit
