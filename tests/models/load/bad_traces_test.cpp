// Every kind of bad record is refused with its place, the value and the bound, all faults of a file at once.
#include <doctest/doctest.h>

#include <algorithm>
#include <filesystem>
#include <set>
#include <string>
#include <vector>

#include "models/load/trace.hpp"
#include "moesim/error.hpp"

using namespace moesim;
using namespace moesim::load;

namespace {

const std::string directory = std::string(MOESIM_TESTS_DIR) + "/bad_input/traces/";

// Read for a model of 2 MoE layers, 8 experts, top-2 and 3 tokens.
struct Case {
  const char* file;
  std::size_t faults;
  std::vector<std::string> parts;  // of the report; "FILE" stands for the path
};

const std::vector<Case> cases{
    {"no_such_file.npy", 1, {"FILE: error: no such file"}},
    {"no_such_file.jsonl", 1, {"FILE: error: no such file"}},
    {"routes.txt", 1, {"no kind of recorded routing", "name it .npy, .jsonl or .csv"}},
    // .npy
    {"empty.npy", 1, {"FILE: error: is empty"}},
    {"not_npy.npy", 1, {"does not begin with \\x93NUMPY"}},
    {"magic_only.npy", 1, {"is truncated: it ends inside the .npy header"}},
    {"truncated_header.npy", 1, {"is truncated: its header has 30 of 118 bytes"}},
    {"truncated_data.npy", 1, {"is truncated: shape (2, 3, 2) of |u1 needs 12 bytes, there are 11"}},
    {"truncated.npy.gz", 1, {"FILE: error: is truncated: the gzip stream ends early"}},
    {"extra_bytes.npy", 1, {"has bytes after the array: shape (2, 3, 2) of |u1 needs 12 bytes, there are 13"}},
    {"version_9.npy", 1, {"has .npy version 9.0; versions 1 to 3 are known"}},
    {"no_shape.npy", 1, {"header without descr, fortran_order or shape"}},
    {"no_tokens.npy", 1, {"is empty: shape (2, 0, 2)"}},
    {"float32.npy", 1, {"holds <f4; expert ids are integers", "ids.astype('<i2')"}},
    {"nan.npy", 1, {"holds <f8; expert ids are integers"}},
    {"structured.npy", 1, {"expert ids are integers of 1 to 8 bytes"}},
    {"big_endian.npy", 1, {"holds big-endian integers (>i2)", "ids.astype('<i2')"}},
    {"fortran_order.npy", 1, {"is in Fortran order", "ascontiguousarray"}},
    {"two_axes.npy", 1, {"has shape (6, 2); [layers, tokens, top_k] is needed", "ids[None]"}},
    {"axes_swapped.npy", 1, {"has 12 ids per token, the model has 8 experts", "order of the axes"}},
    {"id_out_of_range.npy", 1, {"[layer 0, token 1]: expert id 8 is not in [0, 8)"}},
    {"negative_id.npy", 1, {"[layer 0, token 1]: expert id -1 is not in [0, 8)"}},
    {"duplicate_id.npy", 1, {"[layer 1, token 0]: expert 0 is named twice"}},
    {"many_faults.npy", 21, {"[layer 0, token 19]: expert id 9", "... and 10 more"}},
    // .jsonl
    {"empty.jsonl", 1, {"is empty: no record names expert ids"}},
    {"only_meta.jsonl", 1, {"is empty: no record names expert ids"}},
    {"cut_off.jsonl", 1, {"FILE:2:41: error: is not a JSON value", "the file ends inside this record"}},
    {"not_json.jsonl", 2, {"FILE:2:1: error: is not a JSON value", "FILE:4:1: error: is not a JSON object"}},
    {"nan_weight.jsonl", 1, {"FILE:2:", "is not a JSON value", "NaN and Infinity are not JSON"}},
    {"wrong_top_k.jsonl",
     2,
     {"FILE:2:1: error: 'topk_ids' has 1 ids, the records before it have 2", "FILE:4:1: error: 'topk_ids' has 3 ids"}},
    {"ids_out_of_range.jsonl",
     6,
     {"FILE:1:1: error: expert id 8 is not in [0, 8)", "FILE:2:1: error: expert id -1 is not in",
      "FILE:3:1: error: expert 3 is named twice", "FILE:4:1: error: 'topk_ids' holds 1.5; expert ids are whole numbers",
      "FILE:5:1: error: 'topk_ids' holds 1e+20", "FILE:6:1: error: 'topk_ids' holds \"1\""}},
    {"bad_layer.jsonl",
     4,
     {"FILE:1:1: error: 'layer' is missing", "FILE:2:1: error: 'layer' is \"0\"", "FILE:3:1: error: 'layer' is -1",
      "FILE:4:1: error: 'topk_ids' is missing"}},
    {"missing_token.jsonl",
     1,
     {"FILE:4:1: error: layer 1 ends with 2 records, layer 0 has 3", "the same tokens in the same order"}},
    {"order_differs.jsonl",
     1,
     {"FILE:3:1: error: record 0 of layer 1 is of \"a\":1, but of layer 0 it is of \"a\":0 (line 1)"}},
    // .csv
    {"empty.csv", 1, {"is empty: it has no row of counts"}},
    {"header_only.csv", 1, {"is empty: it has no row of counts"}},
    {"no_header.csv", 1, {"FILE:1:1: error: is not a header of expert counts", "layer,expert,count"}},
    {"cells.csv",
     7,
     {"FILE:3:1: error: expert is '8'; it must be a whole number in [0, 8)", "FILE:4:1: error: count is '-3'",
      "FILE:5:1: error: count is 'nan'", "FILE:6:1: error: count is '2.5'", "FILE:7:1: error: layer is 'x'",
      "FILE:8:1: error: layer 0 names expert 0 a second time", "FILE:9:1: error: has 2 columns, the header has 3"}},
    {"too_hot.csv", 2, {"expert 0 of layer 0 has 8 of 10 token copies", "at most 5", "has routing of 1 layers"}},
    {"zero_layer.csv", 1, {"layer 1 has no tokens"}},
    {"no_such_size.csv", 1, {"has rows for 4, 16 experts, none for 8"}},
    {"iterations.csv",
     2,
     {"FILE:3:1: error: layer 1 has iteration 0 a second time",
      "FILE:4:1: error: tokens_per_expert has 3 numbers for 8 experts"}},
    {"uneven_iterations.csv", 1, {"layer 3 has 1 iterations, layer 1 has 2"}},
};

}  // namespace

TEST_CASE("bad traces are refused, with every fault") {
  for (const Case& c : cases) {
    CAPTURE(c.file);
    TraceSpec spec;
    spec.path = directory + c.file;
    spec.shape = {2, 8, 2, 1, 1, 3};
    std::vector<Diagnostic> found;
    try {
      open_trace(spec);
    } catch (const InputError& e) {
      found = e.diagnostics();
    }
    const std::string report = format_diagnostics(found);
    CHECK_MESSAGE(found.size() == c.faults, report);
    for (std::string part : c.parts) {
      if (const std::size_t at = part.find("FILE"); at != std::string::npos) part.replace(at, 4, spec.path);
      CHECK_MESSAGE(report.find(part) != std::string::npos, part << " is not in\n" << report);
    }
  }
}

TEST_CASE("every file of bad traces is tried") {
  std::set<std::string> tried;
  for (const Case& c : cases) tried.insert(c.file);
  for (const auto& entry : std::filesystem::directory_iterator(directory))
    CHECK_MESSAGE(tried.contains(entry.path().filename().string()), entry.path());
}
