// The models that ship against what is published of them.
#include "models/arch/zoo.hpp"

#include <doctest/doctest.h>

#include <cmath>
#include <set>
#include <string>
#include <vector>

#include "models/arch/hf_config.hpp"
#include "support/files.hpp"

using namespace moesim;
using namespace moesim::arch;

namespace {

// total: the elements of the published checkpoint's tensors, as the model pages and safetensors headers count them;
// what is not part of a Model (multi-token prediction, vision, quantization scales) left out. DeepSeek-V3.2's is its V3
// plus the indexers, counted by hand: its page gives no number without the prediction layer. active: by our convention,
// which counts both embedding tables. card_*: billions as the model card or paper prints them. `without`: how many of
// the two tables (input embedding, output head) the card leaves out of its active number, by its own words or because
// no other reading gives its digits. Of the Switch-Base models the paper prints one (table 9: 7 B, as many FLOPs as
// T5-Base's 0.2 B).
struct Published {
  const char* name;
  std::int64_t total, active;
  const char* card_total;
  const char* card_active;
  int without;
};
constexpr Published published[] = {
    {"mixtral-8x7b", 46'702'792'704, 12'879'925'248, "46.7", "12.9", 0},
    {"mixtral-8x22b", 140'620'634'112, 39'152'031'744, "141", "39", 0},
    {"deepseek-v3", 671'026'419'200, 37'552'297'472, "671", "37", 1},  // README_WEIGHTS.md: 36.7 with one table
    {"deepseek-v3.2", 671'877'944'064, 38'403'822'336, "671", "37", 1},
    {"deepseek-v2", 235'741'434'880, 21'375'800'320, "236", "21", 0},
    {"deepseek-v2-lite", 15'706'484'224, 2'661'150'208, "15.7", "2.4", 1},
    {"kimi-k2", 1'026'408'232'448, 32'861'500'928, "1026", "32", 0},
    {"qwen3-235b-a22b", 235'093'634'560, 22'190'763'520, "235", "22", 0},
    {"qwen3-30b-a3b", 30'532'122'624, 3'353'032'704, "30.5", "3.3", 0},
    {"qwen2-57b-a14b", 57'408'658'944, 14'249'270'784, "57.4", "14", 0},
    {"qwen1.5-moe-a2.7b", 14'315'784'192, 2'689'173'504, "14.3", "2.7", 0},
    {"olmoe-1b-7b", 6'919'161'856, 1'282'017'280, "6.9", "1.3", 0},
    {"gpt-oss-120b", 116'829'156'672, 5'711'982'912, "116.83", "5.13", 1},  // the card: "unembedding, not embedding"
    {"gpt-oss-20b", 20'914'757'184, 4'187'440'704, "20.91", "3.61", 1},
    {"qwen3-next-80b-a3b", 79'674'391'296, 3'874'929'408, "80", "3", 2},
    {"qwen3.5-35b-a3b", 34'660'610'688, 3'454'988'928, "35", "3", 0},
    {"switch-base-8", 619'339'008, 222'977'280, nullptr, nullptr, 0},
    {"switch-base-16", 1'072'397'568, 223'051'008, nullptr, nullptr, 0},
    {"switch-base-32", 1'978'514'688, 223'198'464, nullptr, nullptr, 0},
    {"switch-base-64", 3'790'748'928, 223'493'376, nullptr, nullptr, 0},
    {"switch-base-128", 7'415'217'408, 224'083'200, "7", "0.2", 0},
    {"switch-base-256", 14'664'154'368, 225'262'848, nullptr, nullptr, 0},
    // The paper prints them without embeddings, norms and routers: tests/strategies/training_test.cpp
    {"hecate-gpt-s", 1'881'049'344, 125'733'120, nullptr, nullptr, 0},
    {"hecate-gpt-l", 7'442'600'448, 421'335'552, nullptr, nullptr, 0},
    {"hecate-bert", 3'304'173'568, 183'611'392, nullptr, nullptr, 0},
    {"hecate-bert-deep", 6'576'566'272, 335'441'920, nullptr, nullptr, 0},
};

// Cards round or cut off: "3.3" stands for 3.353, "141" for 140.6.
bool prints_as(std::int64_t n, const std::string& digits) {
  const std::size_t dot = digits.find('.');
  const double unit = std::pow(10.0, dot == std::string::npos ? 0.0 : -static_cast<double>(digits.size() - dot - 1));
  const double value = static_cast<double>(n) * 1e-9;
  const double card = std::stod(digits);
  return value >= card - 0.5 * unit && value < card + unit;
}

}  // namespace

TEST_CASE("every model of the zoo has its published number of parameters") {
  std::set<std::string> listed;
  for (const Published& p : published) {
    CAPTURE(p.name);
    listed.insert(p.name);
    const Model m = load(p.name);
    const ParameterCount n = parameters(m);
    CHECK(m.name == p.name);
    CHECK(n.total == p.total);
    CHECK(n.active == p.active);
    if (!p.card_total) continue;
    CHECK(prints_as(n.total, p.card_total));
    CHECK(prints_as(n.active - p.without * m.vocabulary * m.hidden, p.card_active));
  }
  const std::vector<std::string> names = zoo_names();
  CHECK(listed == std::set<std::string>(names.begin(), names.end()));
}

TEST_CASE("Switch-Base-8 on paper") {
  // h = 768, 12 heads of 64, d_ff = 3072, 12 + 12 blocks of which every second is sparse; tied embeddings
  const int attention = 4 * 768 * 768;
  const int ffn = 2 * 768 * 3072;
  const int norms = (12 * 2 + 1) * 768 + (12 * 3 + 1) * 768;
  const int expected = (12 + 2 * 12) * attention + 2 * 32 * 12  // relative bias in the first block of a stack
                       + 12 * ffn + 12 * (8 * ffn + 8 * 768) + norms + 32128 * 768;
  CHECK(expected == 619'339'008);
  CHECK(parameters(load("switch-base-8")).total == expected);
}

TEST_CASE("weights take the bytes of the published checkpoints") {
  const auto gib = [](const char* name) { return weight_bytes(load(name)) / Bytes(std::int64_t{1} << 30); };
  // gpt-oss model card, table 1: 60.8 and 12.8 GiB (MXFP4 experts: 4.25 bits a weight; the rest bfloat16)
  CHECK(gib("gpt-oss-120b") == doctest::Approx(60.8).epsilon(0.001));
  CHECK(gib("gpt-oss-20b") == doctest::Approx(12.8).epsilon(0.002));
  CHECK(weight_bytes(load("mixtral-8x7b")).value() == 93'405'585'408);    // total_size of its safetensors index
  CHECK(weight_bytes(load("mixtral-8x22b")).value() == 281'241'268'224);  // the same
  CHECK(weight_bytes(load("switch-base-8")).value() == 4 * 619'339'008L);
  CHECK(load("deepseek-v3").weights == DType::fp8);
}

TEST_CASE("names: any case, an organization in front, a path; an unknown one names the nearest") {
  CHECK(load("DeepSeek-V3").name == "deepseek-v3");
  CHECK(load("mistralai/Mixtral-8x7B").name == "mixtral-8x7b");
  CHECK(load(data_path("models/arch/zoo/gpt-oss-20b.json")).name == "gpt-oss-20b");

  const auto complaint = [](std::string_view name) -> std::string {
    try {
      load(name, {}, {"study.toml", 3, 9});
    } catch (const InputError& e) {
      return e.what();
    }
    return "loaded";
  };
  CHECK(complaint("mixtral-8x7") ==
        "study.toml:3:9: error: model 'mixtral-8x7' is not known\n"
        "  hint: did you mean 'mixtral-8x7b'?; or give the path of a config.json\n");
  CHECK(complaint("qwen3-30b-a3b-instruct").find("did you mean 'qwen3-30b-a3b'?") != std::string::npos);
  CHECK(complaint("").find("known: deepseek-v2, ") != std::string::npos);
  CHECK(complaint("../../secret").find("model '../../secret' is not known") != std::string::npos);
  CHECK(complaint("nowhere/config.json").starts_with("nowhere/config.json: error: no such file"));
}

TEST_CASE("a summary is one line under its header") {
  CHECK(summary_header() == "model                  layers  moe hidden experts top_k parameters     active    weights");
  CHECK(summary(load("deepseek-v3")) ==
        "deepseek-v3                61   58   7168     256     8    671.0 B     37.6 B  624.9 GiB");
  CHECK(summary(load("switch-base-8")) ==
        "switch-base-8              24   12    768       8     1    619.3 M    223.0 M   2.31 GiB");
  for (const std::string& name : zoo_names()) CHECK(summary(load(name)).size() == summary_header().size());
}

TEST_CASE("every file of the zoo names its source") {
  for (const std::string& name : zoo_names())
    CHECK(read_file(data_path("models/arch/zoo/" + name + ".json"))
              .find(name.starts_with("hecate-") ? "\"_source\": \"https://arxiv.org/abs/"
                                                : "\"_source\": \"https://huggingface.co/") != std::string::npos);
}
