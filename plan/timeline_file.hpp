// A Timeline as a file, NAME.timeline.json: what an executor found, with the names of its ops, so that predicted and
// measured files can be joined without the plan. docs/plan_format.md, "Timelines", has the format.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "moesim/plan.hpp"
#include "moesim/timeline.hpp"

namespace moesim {

// What a row of a comparison is grouped by.
struct TimelineOp {
  std::string name;
  std::string kind;      // of its work: "gemm", "all_to_all_v"
  std::string category;  // "attention"
  Layer layer;
  Pass pass = Pass::forward;
  friend bool operator==(const TimelineOp&, const TimelineOp&) = default;
};

struct TimelineFile {
  static constexpr int format_version = 2;
  std::string plan_hash;  // equal hashes: the same plan, op for op
  std::string strategy;
  std::string model;
  std::string workload;
  std::string method;  // how the executor came to it, one sentence
  std::vector<TimelineOp> ops;
  Timeline timeline;  // spans by op and rank; links are not kept
};

// 64 bits over the plan's file, as 16 hex digits.
std::string plan_hash(const Plan& plan);

// "predicted", "measured_wall", ...
std::string_view to_string(Timeline::Kind kind);
// Whether all ranks are on one GPU.
bool on_one_gpu(Timeline::Kind kind);

std::vector<TimelineOp> timeline_ops(const Plan& plan);
TimelineFile timeline_file(const Plan& plan, const Timeline& timeline, std::string method);
void write_timeline(const TimelineFile& file, const std::string& path);
// Throws InputError: not a timeline, another version, a span of an op or rank that there is not, times out of order.
TimelineFile read_timeline(const std::string& path);

}  // namespace moesim
