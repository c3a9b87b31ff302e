// Files that are wrong: each gives an InputError at the right place, and nothing crashes.
#include <doctest/doctest.h>

#include <filesystem>
#include <random>
#include <set>
#include <stdexcept>
#include <string>
#include <vector>

#include "models/arch/hf_config.hpp"
#include "models/arch/zoo.hpp"
#include "support/files.hpp"

using namespace moesim;
using namespace moesim::arch;

namespace {

const std::string folder = MOESIM_TESTS_DIR "/bad_input/models/";

struct Bad {
  const char* file;
  std::vector<const char*> expected;  // one per diagnostic, in order; each after "<path>" of the file
};
const std::vector<Bad> bad = {
    {"empty.json", {": error: is empty"}},
    {"truncated.json", {":8:26: error: is not JSON: syntax error while parsing object - unexpected end of input"}},
    {"not_json.json", {":1:1: error: is not JSON: syntax error"}},
    {"invalid_utf8.json", {":1:20: error: is not JSON: syntax error while parsing value - invalid string"}},
    {"list.json", {":1:1: error: must hold a JSON object, holds a list"}},
    {"nan_width.json", {":4:18: error: is not JSON: syntax error while parsing value - invalid literal"}},
    {"overflowing_number.json", {":4:18: error: is not JSON: number overflow parsing '1e999'"}},
    {"beyond_64_bits.json", {":3:3: error: 'vocab_size' must be a whole number of 1 to 268435456, is 1e+20"}},
    {"unknown_model_type.json", {":2:3: error: model_type 'mixtrall' is not known\n  hint: did you mean 'mixtral'?"}},
    {"dense_model_type.json", {":2:3: error: model_type 'bert' is not known\n  hint: known: switch_transformers, "}},
    {"no_model_type.json", {": error: missing field 'model_type'"}},
    {"missing_field.json",
     {": error: missing field 'hidden_size'\n  hint: the file has 'hiden_size'",
      ": error: missing field 'num_local_experts' or 'num_experts'"}},
    {"many_errors.json",
     {":4:3: error: 'hidden_size' must be a whole number of 1 to 16777216, is -4096",
      ":5:3: error: 'num_hidden_layers' must be a whole number of 1 to 10000, is \"32\"",
      ":6:3: error: 'num_attention_heads' must be a whole number of 1 to 16777216, is 32.5",
      ":7:3: error: 'num_key_value_heads' must be a whole number of 1 to 16777216, is a list",
      ":10:3: error: 'intermediate_size' must be a whole number of 1 to 16777216, is true",
      ":11:3: error: 'num_local_experts' must be a whole number of 1 to 65535, is 0",
      ":13:3: error: 'tie_word_embeddings' must be true or false, is \"no\"",
      ":14:3: error: torch_dtype 'bfloat61' is not known\n  hint: did you mean 'bfloat16'?"}},
    {"negative_experts.json", {":9:3: error: 'num_local_experts' must be a whole number of 1 to 65535, is -8"}},
    {"too_many_experts.json", {":9:3: error: 'num_local_experts' must be a whole number of 1 to 65535, is 70000"}},
    {"top_k_above_experts.json", {":10:3: error: num_experts_per_tok 9 is above the number of experts, 8"}},
    {"heads_do_not_divide.json", {":7:3: error: num_key_value_heads 5 does not divide num_attention_heads 32"}},
    {"absurd_size.json", {":4:3: error: the fields describe a model of more than 1e+15 parameters"}},
    {"duplicate_field.json",
     {":11:3: error: 'hidden_size' stands here a second time\n  hint: it was first given in line 4"}},
    {"unknown_quantization.json", {":12:5: error: quant_method 'gptq' is not understood"}},
    {"groups.json", {":18:3: error: n_group 7 does not divide the number of experts, 256"}},
    {"topk_group.json", {":19:3: error: topk_group 9 is above n_group 8"}},
    {"few_groups.json", {":19:3: error: num_experts_per_tok 8 is above the 4 experts in topk_group 1 groups"}},
    {"no_moe_layer.json", {":2:3: error: the fields describe a model without any MoE layer"}},
    {"layer_types.json",
     {":13:3: error: layer_types 'sliding_atention' is not known\n  hint: did you mean 'sliding_attention'?"}},
    {"layer_count.json", {":13:3: error: layer_types names 3 layers, num_hidden_layers is 4"}},
    {"switch_layers.json",
     {":10:3: error: num_sparse_encoder_layers 13 is above num_layers 12",
      ":11:3: error: 'num_sparse_decoder_layers' must be a whole number of 0 to 10000, is -1",
      ":13:3: error: num_selected_experts 9 is above num_experts 8",
      ":14:3: error: dense_act_fn 'rellu' is not known\n  hint: did you mean 'relu'?"}},
    {"qwen_fields.json",
     {": error: missing field 'intermediate_size'\n  hint: the file has 'moe_intermediate_size'",  // layer 0 is dense
      ":6:3: error: num_attention_heads 30 does not divide hidden_size 2048",
      ":8:3: error: use_sliding_window true is not understood",
      ":9:3: error: 'mlp_only_layers' must hold whole numbers of 0 to 10000, holds -1"}},
    {"linear_heads.json",
     {":9:3: error: linear_num_key_heads 24 does not divide linear_num_value_heads 32",
      ":14:3: error: 'mlp_only_layers' must be a list of whole numbers, is 7",
      ":15:3: error: 'layer_types' must be a list of texts in quotes"}},
    {"nested_error.json", {":8:5: error: 'text_config.hidden_size' must be a whole number of 1 to 16777216, is 0"}},
};

// What reading gives: the InputError, or none. Any other exception fails the test.
std::vector<Diagnostic> problems(const std::string& text) {
  try {
    parse_config(text, "config.json");
  } catch (const InputError& e) {
    CHECK_FALSE(e.diagnostics().empty());
    return e.diagnostics();
  }
  return {};
}

std::string complaint(const std::string& path) {
  try {
    read_config(path);
  } catch (const InputError& e) {
    return e.what();
  }
  return "read";
}

}  // namespace

TEST_CASE("bad files: every problem of a file at once, each at its place") {
  for (const Bad& b : bad) {
    CAPTURE(b.file);
    const std::string path = folder + b.file;
    try {
      read_config(path);
      FAIL("was read");
    } catch (const InputError& e) {
      REQUIRE(e.diagnostics().size() == b.expected.size());
      for (std::size_t i = 0; i < b.expected.size(); ++i)
        CHECK_MESSAGE(format_diagnostics({e.diagnostics()[i]}).starts_with(path + b.expected[i]),
                      format_diagnostics({e.diagnostics()[i]}));
    }
  }
}

TEST_CASE("every bad file is in the table") {
  std::set<std::string> tested, present;
  for (const Bad& b : bad) tested.insert(b.file);
  for (const auto& entry : std::filesystem::directory_iterator(folder))
    present.insert(entry.path().filename().string());
  CHECK(tested == present);
}

TEST_CASE("no file, a directory") {
  CHECK(complaint(folder + "absent.json") == folder + "absent.json: error: no such file\n");
  CHECK(complaint(folder) == folder + ": error: is a directory, not a file\n");
}

TEST_CASE("a config that ends early anywhere is an error at its end") {
  std::string text = read_file(data_path("models/arch/zoo/qwen3-next-80b-a3b.json"));
  while (text.ends_with('\n')) text.pop_back();
  CHECK(problems(text).empty());
  for (std::size_t length = 0; length < text.size(); ++length)
    CHECK_MESSAGE(problems(text.substr(0, length)).size() == 1, length);
}

TEST_CASE("each field wrong in each way is an InputError that names a line of the file") {
  const std::vector<std::string> wrong = {"-1", "0.5",   "NaN",   "\"\"", "[]",
                                          "{}", "[[1]]", "1e308", "true", "99999999999999999999"};
  for (const std::string& name : zoo_names()) {
    const std::string text = read_file(data_path("models/arch/zoo/" + name + ".json"));
    // A field that carries a positive number: "name": 123
    for (std::size_t colon = text.find("\": "); colon != std::string::npos; colon = text.find("\": ", colon + 1)) {
      const std::size_t from = colon + 3;
      if (text[from] < '0' || text[from] > '9') continue;
      const std::size_t to = text.find_first_of(",\n", from);
      for (const std::string& value : wrong) {
        const std::vector<Diagnostic> found = problems(text.substr(0, from) + value + text.substr(to));
        CAPTURE(text.substr(from - 20, 30));
        REQUIRE_MESSAGE(!found.empty(), value);
        const int line = 1 + static_cast<int>(std::count(text.begin(), text.begin() + std::ptrdiff_t(from), '\n'));
        CHECK_MESSAGE(found[0].place.line == line, value);
      }
    }
  }
}

TEST_CASE("random damage gives a model or an InputError, nothing else") {
  std::mt19937 random(20240607);
  const std::string characters = "{}[]\",:0123456789.-eEtrufalsn \n\\\x01\xff";
  for (const char* name : {"deepseek-v3.2", "gpt-oss-20b", "qwen3.5-35b-a3b", "switch-base-8"}) {
    const std::string text = read_file(data_path(std::string("models/arch/zoo/") + name + ".json"));
    int refused = 0;
    for (int round = 0; round < 1500; ++round) {
      std::string damaged = text;
      for (auto n = 1 + random() % 3; n > 0; --n) {
        const std::size_t at = random() % damaged.size();
        const char c = characters[random() % characters.size()];
        if (random() % 3 == 0)
          damaged.erase(at, 1 + random() % 4);
        else if (random() % 2 == 0)
          damaged.insert(at, 1, c);
        else
          damaged[at] = c;
      }
      refused += problems(damaged).empty() ? 0 : 1;
    }
    CHECK(refused > 750);   // most damage is noticed
    CHECK(refused < 1500);  // some falls on what is not read
  }
}

TEST_CASE("nesting a million deep does not overflow the stack") {
  const std::size_t depth = 1'000'000;
  CHECK(problems(std::string(depth, '[')).size() == 1);
  CHECK(problems(std::string(depth, '[') + std::string(depth, ']'))[0].message ==
        "must hold a JSON object, holds a list");
  const std::string deep = "\"num_experts\": " + std::string(depth, '[') + std::string(depth, ']');
  const std::vector<Diagnostic> found = problems("{\"model_type\": \"olmoe\", " + deep + "}");
  REQUIRE(!found.empty());
  CHECK(found.back().message.find("'num_experts' must be a whole number of 1 to 65535, is a list") == 0);
}
