#include "support/toml_reader.hpp"

#include <doctest/doctest.h>

#include <functional>
#include <string>
#include <vector>

namespace moesim {
namespace {

// Reads `text` with `reader` and returns "line:column message | hint" for each fault.
std::vector<std::string> faults(std::string_view text, const std::function<void(TomlDocument&)>& reader) {
  std::vector<std::string> out;
  try {
    TomlDocument doc(text, "t.toml");
    reader(doc);
    doc.throw_if_errors();
  } catch (const InputError& e) {
    for (const Diagnostic& d : e.diagnostics()) {
      CHECK(d.place.file == "t.toml");
      out.push_back(std::to_string(d.place.line) + ":" + std::to_string(d.place.column) + " " + d.message +
                    (d.hint.empty() ? "" : " | " + d.hint));
    }
  }
  return out;
}

using Lines = std::vector<std::string>;

TEST_CASE("typed getters read what is there and leave the rest alone") {
  TomlDocument doc(R"(name = "x"
flag = true
count = 3
share = 1
rate = "400 Gb/s"
[sub]
memory = "80 GiB"
[[item]]
k = 1
[[item]]
k = 2
)",
                   "t.toml");
  TomlTable root = doc.root();
  std::string name;
  bool flag = false;
  int count = 0;
  double share = 0;
  int absent = 42;
  BytesPerSecond rate;
  Bytes memory;
  CHECK(root.require("name", name));
  CHECK(root.require("flag", flag));
  CHECK(root.require("count", count, {1, 8}));
  CHECK(root.maybe("share", share));  // an integer is a number
  CHECK(root.require("rate", rate));
  CHECK_FALSE(root.maybe("absent", absent));
  CHECK(root.require_table("sub").require("memory", memory));
  const std::vector<TomlTable> items = root.tables("item");
  REQUIRE(items.size() == 2);
  for (TomlTable item : items) {
    int k = 0;
    CHECK(item.require("k", k));
  }
  CHECK(name == "x");
  CHECK(flag);
  CHECK(count == 3);
  CHECK(share == 1.0);
  CHECK(absent == 42);
  CHECK(rate.value() == 50e9);
  CHECK(memory.value() == 80LL << 30);
  CHECK(doc.places().at("sub.memory").line == 7);
  CHECK(doc.places().at("item[1].k").line == 11);
  doc.throw_if_errors();
}

TEST_CASE("all faults of a file at once, by place") {
  const Lines got = faults(R"(count = 9
share = nan
rate = 450
[sub]
flag = "yes"
colour = "bleu"
typo = 1
)",
                           [](TomlDocument& doc) {
                             TomlTable root = doc.root();
                             int count = 0;
                             double share = 0;
                             BytesPerSecond rate;
                             bool flag = false;
                             int colour = 0;
                             std::string name;
                             TomlTable sub = root.require_table("sub");
                             sub.one_of("colour", colour, NamesOf<int>{{"red", 1}, {"blue", 2}});
                             sub.require("flag", flag);
                             sub.maybe("type", name);
                             sub.require("name", name);
                             root.require("count", count, {1, 8});
                             root.require("share", share, {0, 1, true});
                             root.require("rate", rate);
                           });
  const Lines expected{
      "1:9 'count': 9 must be at least 1 and at most 8",
      "2:9 'share': nan must be a finite number",
      "3:8 'rate': '450' has no unit, a data rate is due | write it as in \"450 GB/s\"; units: B/s, kB/s, MB/s, GB/s, "
      "TB/s, PB/s, KiB/s, MiB/s, GiB/s, TiB/s, b/s, kb/s, Mb/s, Gb/s, Tb/s",
      "4:1 [sub] is missing 'name'",
      "5:8 'sub.flag': expected true or false, found a string, \"yes\"",
      "6:10 'sub.colour': no such choice as 'bleu'; one of: red, blue | did you mean 'blue'?",
      "7:1 unknown key 'typo' in [sub] | did you mean 'type'?",
  };
  CHECK(got == expected);
}

TEST_CASE("a key of another table is sent there") {
  const Lines got = faults("[model]\nlayers = 3\n[cluster]\nexperts = 4\n", [](TomlDocument& doc) {
    std::int64_t n = 0;
    TomlTable model = doc.root().require_table("model");
    model.maybe("experts", n);
    model.maybe("layers", n);
    doc.root().require_table("cluster").maybe("nodes", n);
  });
  CHECK(got == Lines{"4:1 unknown key 'experts' in [cluster] | 'experts' belongs in [model]"});
}

TEST_CASE("a missing table is one fault") {
  const Lines got = faults("a = 1\n", [](TomlDocument& doc) {
    int a = 0;
    doc.root().require("a", a);
    TomlTable t = doc.root().require_table("cluster");
    CHECK_FALSE(t);
    t.require("nodes", a);
    TomlTable optional = doc.root().table("report");
    optional.require("sort", a);
  });
  CHECK(got == Lines{"1:1 the file is missing 'cluster'"});
}

TEST_CASE("tables, lists and scalars in each other's place") {
  const Lines got = faults("t = 1\n[[u]]\n[list]\n[s]\nx = 1\n[one]\nk = { a = 1 }\n", [](TomlDocument& doc) {
    TomlTable root = doc.root();
    (void)root.table("t");
    (void)root.table("u");
    std::vector<RawValue> values;
    root.list("list", values);
    CHECK(root.tables("s").empty());
    std::string text;
    root.table("one").maybe("k", text);
  });
  const Lines expected{"1:5 't': expected one table, found an integer, 1 | write [t] and its keys below it",
                       "2:1 'u': expected one table, found a list of tables | write [u] and its keys below it",
                       "3:1 'list': expected a list as in [1, 2], found a table",
                       "4:1 's': expected a list of tables, found a table | write [[s]] above each one's keys",
                       "7:5 'one.k': expected a string, found a table"};
  CHECK(got == expected);
}

TEST_CASE("lists") {
  TomlDocument doc("a = [1, 2.5, \"x\", true]\nb = \"one\"\nc = [\"p\", \"q\"]\n", "t.toml");
  TomlTable root = doc.root();
  std::vector<RawValue> a;
  std::vector<std::string> b;
  std::vector<std::string> c;
  CHECK(root.list("a", a));
  CHECK(root.strings("b", b));
  CHECK(root.strings("c", c));
  REQUIRE(a.size() == 4);
  CHECK(std::get<std::int64_t>(a[0].value) == 1);
  CHECK(std::get<double>(a[1].value) == 2.5);
  CHECK(std::get<std::string>(a[2].value) == "x");
  CHECK(std::get<bool>(a[3].value));
  CHECK(a[2].place.column == 14);
  CHECK(b == Lines{"one"});
  CHECK(c == Lines{"p", "q"});
  CHECK(faults("a = [1, [2]]\nb = [1]\n", [](TomlDocument& d) {
          std::vector<RawValue> v;
          std::vector<std::string> s;
          d.root().list("a", v);
          d.root().strings("b", s);
        }) == Lines{"1:9 'a': expected single values, found a list", "2:6 'b': expected a string, found 1"});
}

TEST_CASE("rest gives the unread keys in file order, with their places") {
  TomlDocument doc("kind = \"x\"\nzeta = 1\nalpha = true\n", "t.toml");
  TomlTable root = doc.root();
  std::string kind;
  root.require("kind", kind);
  const std::vector<RawValue> rest = root.rest();
  REQUIRE(rest.size() == 2);
  CHECK(rest[0].key == "zeta");
  CHECK(to_text(rest[0]) == "1");
  CHECK(rest[1].key == "alpha");
  CHECK(rest[1].place.line == 3);
  CHECK(rest[1].place.column == 9);
  doc.throw_if_errors();
}

TEST_CASE("what is not TOML") {
  const auto nothing = [](TomlDocument&) {};
  CHECK(faults("", nothing) == Lines{"0:0 is empty: it holds no keys"});
  CHECK(faults("# only a comment\n", nothing) == Lines{"0:0 is empty: it holds no keys"});
  const Lines unquoted = faults("a = 1\nb = h100\n", nothing);
  REQUIRE(unquoted.size() == 1);
  CHECK(unquoted[0].starts_with("2:"));
  const Lines twice = faults("a = 1\na = 2\n", nothing);
  REQUIRE(twice.size() == 1);
  CHECK(twice[0].starts_with("2:"));
  CHECK(twice[0].find("'a'") != std::string::npos);
  CHECK(faults("a = 99999999999999999999\n", nothing).size() == 1);
  CHECK(faults("a = \"\xff\"\n", nothing).size() == 1);
  CHECK(faults(std::string(100000, '['), nothing).size() == 1);
  CHECK_THROWS_WITH_AS(TomlDocument("/nonexistent/x.toml"), doctest::Contains("no such file"), InputError);
  CHECK_THROWS_WITH_AS(TomlDocument("/tmp"), doctest::Contains("is a directory"), InputError);
}

RawValue value(std::int64_t v) { return {"", v, {"t.toml", 90, 9}}; }

TEST_CASE("replace: a sweep's value stands in for the file's, and its faults are at the sweep") {
  constexpr std::string_view text =
      "[model]\nexperts = 8\n[[strategy]]\nkind = \"a\"\n[[strategy]]\nkind = \"b\"\nname = \"c\"\n";
  TomlDocument doc(text, "t.toml");
  CHECK_FALSE(doc.replace("model.experts", value(64)));
  CHECK_FALSE(doc.replace("model.top_k", value(2)));
  CHECK_FALSE(doc.replace("cluster.nodes", value(4)));
  CHECK_FALSE(doc.replace("strategy.c.chunk", value(5)));
  CHECK_FALSE(doc.replace("strategy.0.chunk", value(6)));
  std::int64_t experts = 0;
  std::int64_t top_k = 0;
  std::int64_t nodes = 0;
  TomlTable model = doc.root().require_table("model");
  CHECK(model.require("experts", experts));
  CHECK(model.require("top_k", top_k));
  CHECK(doc.root().require_table("cluster").require("nodes", nodes));
  CHECK(experts == 64);
  CHECK(top_k == 2);
  CHECK(nodes == 4);
  CHECK(doc.places().at("model.experts").line == 90);
  std::vector<TomlTable> strategies = doc.root().tables("strategy");
  REQUIRE(strategies.size() == 2);
  std::int64_t chunk = 0;
  CHECK(strategies[0].require("chunk", chunk));
  CHECK(chunk == 6);
  CHECK(strategies[1].require("chunk", chunk));
  CHECK(chunk == 5);

  const std::optional<Fault> none = doc.replace("strategy.d.chunk", value(1));
  REQUIRE(none);
  CHECK(none->message.find("no [[strategy]] is named 'd'") != std::string::npos);
  CHECK(doc.replace("model.experts.deep", value(1)));
  CHECK(doc.replace("model.", value(1)));
  CHECK(doc.replace("strategy.c", value(1)));

  const Lines got = faults(text, [](TomlDocument& d) {
    (void)d.replace("model.experts", value(-1));
    (void)d.replace("model.expert", value(1));
    std::int64_t n = 0;
    d.root().require_table("model").require("experts", n);
    for (TomlTable t : d.root().tables("strategy")) (void)t.rest();
  });
  CHECK(got == Lines{"90:9 'model.experts': -1 must be at least 0",
                     "90:9 unknown key 'expert' in [model] | did you mean 'experts'?"});
}

}  // namespace
}  // namespace moesim
