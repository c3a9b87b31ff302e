"""The program as a user runs it: verbs, exit codes, files, determinism. Usage: cli_test.py MOESIM SOURCE_DIR"""

import json
import os
import pathlib
import subprocess
import sys
import tempfile
import unittest

MOESIM, SOURCE = sys.argv[1], pathlib.Path(sys.argv[2])
SCENARIOS = sorted((SOURCE / "scenarios").glob("*.toml"))
SCENARIOS = [s for s in SCENARIOS if not s.name.endswith(".fit.toml")]


def run(*args, env=None, cwd=None):
    return subprocess.run([MOESIM, *map(str, args)], capture_output=True, text=True, timeout=600, cwd=cwd,
                          env={**os.environ, **(env or {})})


class Cli(unittest.TestCase):
    def test_every_shipped_scenario_is_sound(self):
        r = run("check", *SCENARIOS)
        self.assertEqual(r.returncode, 0, r.stderr)
        self.assertEqual(r.stdout.count("sound"), len(SCENARIOS))

    def test_bench_collective(self):
        r = run("bench", "collective", "--machine", "h100_sxm", "--op", "all_reduce", "--sizes", "1KiB..1MiB", "--json")
        self.assertEqual(r.returncode, 0, r.stderr)
        rows = json.loads(r.stdout)["rows"]
        self.assertEqual([row["bytes"] for row in rows], [1024 << i for i in range(11)])
        for a, b in zip(rows, rows[1:]):
            self.assertLessEqual(a["time_us"], b["time_us"])
            self.assertLessEqual(b["bound_us"], b["time_us"])
        for bad in (["--op", "all_reduc"], ["--op", "all_reduce", "--sizes", "2..1"], ["--op", "all_reduce", "--gpus", "12"],
                    ["--op", "all_reduce", "--against", SOURCE], ["--op", "broadcast", "--skew", "1"]):
            r = run("bench", "collective", "--machine", "h100_sxm", *bad)
            self.assertEqual(r.returncode, 2, bad)
            self.assertNotEqual(r.stderr, "")

    def test_same_bytes_for_any_thread_count(self):
        for name in ("mixtral_h100.toml", "moeshard_a100.toml"):
            outputs = {run("simulate", SOURCE / "scenarios" / name, "--json", env={"MOESIM_THREADS": n}).stdout
                       for n in ("1", "2", "7")}
            self.assertEqual(len(outputs), 1)
            self.assertGreater(len(outputs.pop()), 1000)

    def test_files_are_the_same_bytes_and_whole(self):
        with tempfile.TemporaryDirectory() as d:
            contents = []
            for n in ("1", "3"):
                out = pathlib.Path(d) / n
                r = run("simulate", SOURCE / "scenarios/mixtral_h100.toml", "--out", out, env={"MOESIM_THREADS": n})
                self.assertEqual(r.returncode, 0, r.stderr)
                contents.append({p.name: p.read_bytes() for p in out.iterdir()})
            self.assertEqual(contents[0], contents[1])
            names = set(contents[0])
            self.assertIn("report.json", names)
            self.assertIn("expert_parallel.ops.csv", names)
            self.assertFalse([n for n in names if n.endswith(".tmp")])
            trace = json.loads(contents[0]["expert_parallel.trace.json"])
            tracks = {e["args"]["name"] for e in trace["traceEvents"] if e["ph"] == "M"}
            self.assertIn("links", tracks)
            self.assertIn("n0/gpu0>nvswitch", tracks)
            for e in trace["traceEvents"]:
                if e["ph"] == "X":
                    self.assertGreaterEqual(e["dur"], 0)

    def test_golden_report(self):
        """The same scenario gives the same bytes at every optimization level: this runs in each build."""
        golden = SOURCE / "tests/golden/small.report.json"
        r = run("simulate", SOURCE / "tests/golden/small.toml", "--json")
        self.assertEqual(r.returncode, 0, r.stderr)
        report = json.loads(r.stdout)
        for s in report["points"][0]["strategies"]:  # why it is right: the parts add up to the step
            self.assertAlmostEqual(sum(s["parts_us"].values()), s["step_us"], places=3)
        self.assertEqual(r.stdout, golden.read_text(), "if a prediction changed on purpose: write the new bytes to "
                         f"{golden} and say in CHANGELOG.md what changed")

    def test_validate_judges_what_ships(self):
        r = run("validate", "--json")
        self.assertEqual(r.returncode, 0, r.stderr)
        lines = json.loads(r.stdout)["lines"]
        held = [x for x in lines if x["rows_are"].startswith("held out") and x["regime"] == "all"]
        self.assertGreater(len(held), 15)
        for x in held:
            self.assertLess(x["p90"], x["roofline_p90"], x)
            self.assertTrue(0.85 <= x["coverage"] <= 0.95, x)
        self.assertIn("h800", {x["machine"] for x in lines})  # predicted by transfer
        self.assertTrue(run("validate", "--markdown").stdout.startswith("| machine"))

    def test_calibrate_refuses_and_leaves_nothing(self):
        with tempfile.TemporaryDirectory() as d:
            rows, fit = pathlib.Path(d) / "rows.csv", pathlib.Path(d) / "x.fit.toml"
            rows.write_text("gpu,library,dtype,m,n,k,time_us\nh100_sxm,a,bfloat16,1,32,32,-1\n")
            r = run("calibrate", "--from", rows, "--schema", "gemm", "-o", fit)
            self.assertEqual(r.returncode, 2)
            self.assertIn(f"{rows}:2:7", r.stderr)
            self.assertFalse(fit.exists())
            self.assertEqual(run("calibrate").returncode, 2)
            self.assertEqual(run("calibrate", "--from", rows).returncode, 2)
            r = run("calibrate", "--transfer", SOURCE / "models/fitted/h100_sxm.fit.toml", "--machine", "h200_sxm")
            shipped = (SOURCE / "models/fitted/h200_sxm.fit.toml").read_text()
            self.assertEqual(r.stdout, shipped, "models/fitted/h200_sxm.fit.toml is not what --transfer makes of H100")

    def test_exit_codes(self):
        self.assertEqual(run("--help").returncode, 0)
        self.assertEqual(run("--version").returncode, 0)
        self.assertEqual(run("simulate").returncode, 2)
        self.assertEqual(run("simulat").returncode, 2)
        self.assertEqual(run("simulate", "/no/such.toml").returncode, 2)
        self.assertEqual(run("simulate", SOURCE).returncode, 2)
        with tempfile.TemporaryDirectory() as d:
            text = (SOURCE / "scenarios/mixtral_h100.toml").read_text()
            one = pathlib.Path(d) / "one.toml"
            one.write_text(text.replace('machine = "h100_sxm"', 'machine = "h100_sxm"\ngpus_per_node = 1'))
            r = run("simulate", one)
            self.assertEqual(r.returncode, 1)
            self.assertIn("NO (of", r.stdout)

    def test_options_that_are_no_numbers_or_no_words(self):
        scenario = SOURCE / "tests/cli/host_tiny.toml"
        for args, message in ((("compare", scenario, scenario, "--tolerance", "nan"), "nan is not in 0 - 10"),
                              (("compare", scenario, scenario, "--by", "color"), "color is not one of layer,op,rank,strategy"),
                              (("simulate", scenario, "--network-error", "nan"), "nan is not in"),
                              (("run", scenario, "--mode", "fast"), "fast is not one of auto,one-at-a-time,threads")):
            r = run(*args)
            self.assertEqual(r.returncode, 2, args)
            self.assertIn(message, r.stderr)
        for verb in ("compare", "run", "simulate", "place", "bench"):
            self.assertNotIn("\0", run(verb, "--help").stdout, verb)

    def test_bad_scenarios_say_where_and_leave_nothing(self):
        bad = sorted((SOURCE / "tests/bad_input/scenarios").glob("*.toml"))
        self.assertGreaterEqual(len(bad), 40)
        with tempfile.TemporaryDirectory() as d:
            for path in bad:
                r = run("simulate", path, "--out", d)
                self.assertEqual(r.returncode, 2, f"{path}: {r.stdout}{r.stderr}")
                self.assertIn("error:", r.stderr)
                self.assertEqual(os.listdir(d), [])

    def test_plan_prints_and_saves(self):
        scenario = SOURCE / "scenarios/mixtral_h100.toml"
        r = run("plan", scenario, "--strategy", "expert_parallel")
        self.assertEqual(r.returncode, 0, r.stderr)
        self.assertIn("l0.moe.dispatch", r.stdout)
        r = run("plan", scenario, "--strategy", "expert_paralel")
        self.assertEqual(r.returncode, 2)
        self.assertIn("did you mean 'expert_parallel'", r.stderr)
        self.assertEqual(run("plan", scenario, "--strategy", "expert_parallel", "--rank", "8").returncode, 2)
        with tempfile.TemporaryDirectory() as d:
            out = pathlib.Path(d) / "ep.plan.json"
            self.assertEqual(run("plan", scenario, "--strategy", "expert_parallel", "-o", out).returncode, 0)
            self.assertEqual(json.loads(out.read_text())["ranks"], 8)

    def test_an_out_that_cannot_be_written_is_said_before_anything_is_measured(self):
        scenario = SOURCE / "tests/cli/host_tiny.toml"
        for verb in ("simulate", "run"):
            r = run(verb, scenario, "--out", "/proc/x")
            self.assertEqual(r.returncode, 2, r.stderr)
            self.assertEqual(r.stdout, "")
        with tempfile.TemporaryDirectory() as d:
            d = pathlib.Path(d)
            run("simulate", scenario, "--out", d)
            (d / "mine.txt").write_text("x")
            (d / "old.timeline.json").write_text("{}")
            self.assertEqual(run("simulate", scenario, "--out", d).returncode, 0)
            self.assertFalse((d / "old.timeline.json").exists())  # of another study, and not this one's
            self.assertTrue((d / "mine.txt").exists())

    def test_a_plan_file_is_predicted_and_run_as_the_strategy_is(self):
        scenario = SOURCE / "tests/cli/host_tiny.toml"
        with tempfile.TemporaryDirectory() as d:
            d = pathlib.Path(d)
            first = json.loads(run("simulate", scenario, "--json").stdout)["points"][0]["strategies"][0]
            plan = d / "p.plan.json"
            self.assertEqual(run("plan", scenario, "--strategy", first["strategy"], "-o", plan).returncode, 0)
            r = run("simulate", scenario, "--plan", plan, "--json", "--out", d / "predicted")
            self.assertEqual(r.returncode, 0, r.stderr)
            only = json.loads(r.stdout)["points"][0]["strategies"]
            self.assertEqual([(s["strategy"], s["step_us"]) for s in only], [(first["strategy"], first["step_us"])])
            r = run("run", scenario, "--plan", plan, "--repeat", "1", "--out", d / "measured")
            self.assertEqual(r.returncode, 0, r.stderr)
            r = run("compare", d / "predicted", d / "measured", "--tolerance", "10")
            self.assertEqual(r.returncode, 0, r.stderr)
            text = plan.read_text()
            for bad, message in ((text.replace(f'"strategy":"{first["strategy"]}"', '"strategy":"../../x"', 1), "named after it"),
                                 (text.replace('"ranks":', '"ranks":1', 1), "rank"),
                                 (text[:-20], "not"),
                                 (text.replace('"capacity":0', '"capacity":7', 1), "copies on rank 0"),
                                 (text.replace('"model":"', '"model":"other', 1), "was made for the model 'other")):
                plan.write_text(bad)
                r = run("simulate", scenario, "--plan", plan, "--out", d / "bad")
                self.assertEqual(r.returncode, 2, r.stderr)
                self.assertIn(message, r.stderr)

    def test_the_loop_on_this_machine(self):
        """simulate, run and compare of one scenario: the same ops, and the bytes that ranks compute do not depend on
        how they run."""
        scenario = SOURCE / "tests/cli/host_tiny.toml"
        with tempfile.TemporaryDirectory() as d:
            d = pathlib.Path(d)
            self.assertEqual(run("simulate", scenario, "--out", d / "p").returncode, 0)
            reports = []
            for mode in ("threads", "one-at-a-time"):
                r = run("run", scenario, "--repeat", 2, "--mode", mode, "--out", d / mode)
                self.assertEqual(r.returncode, 0, r.stderr)
                self.assertIn("measured by host", r.stdout)
                reports.append(json.loads((d / mode / "report.json").read_text()))
            clocks = [{s["measured"]["clock"] for s in x["points"][0]["strategies"]} for x in reports]
            self.assertEqual(clocks, [{"measured_wall"}, {"measured_composed"}])
            hashes = [{s["strategy"]: s["measured"]["result_hash"] for s in x["points"][0]["strategies"]}
                      for x in reports]
            self.assertEqual(hashes[0], hashes[1])
            self.assertEqual(len(set(hashes[0].values())), 3)
            for s in reports[1]["points"][0]["strategies"]:
                self.assertEqual(len(s["measured"]["runs_us"]), 2)
                self.assertAlmostEqual(sum(s["parts_us"].values()), s["step_us"], places=3)
            r = run("compare", d / "p", d / "one-at-a-time", "--tolerance", 10, "--json")
            self.assertIn(r.returncode, (0, 1), r.stderr)
            self.assertEqual(len(json.loads(r.stdout)["strategies"]), 3)
            one = "expert_parallel.timeline.json"
            self.assertEqual(run("compare", d / "p" / one, d / "p" / one, "--tolerance", 0).returncode, 0)
            r = run("compare", d / "p" / one, d / "threads" / "tensor_parallel.timeline.json")
            self.assertEqual(r.returncode, 2)
            self.assertIn("is predicted only", r.stderr)

    def test_a_calibration_of_this_machine(self):
        with tempfile.TemporaryDirectory() as d:
            fit = pathlib.Path(d) / "this.fit.toml"
            r = run("calibrate", "--backend", "host", "--probes", 16, "--repeat", 1, "-o", fit)
            self.assertEqual(r.returncode, 0, r.stderr)
            for kernel in ("product", "attention", "streaming", "transfer"):
                self.assertIn(f"host {kernel}", r.stdout)
            scenario = SOURCE / "tests/cli/host_tiny.toml"
            r = run("simulate", scenario, "--machine", fit, "--json")
            self.assertEqual(r.returncode, 0, r.stderr)
            point = json.loads(r.stdout)["points"][0]
            self.assertIn("Eigen", point["calibration"])
            text = fit.read_text()
            processor = [line for line in text.splitlines() if line.startswith("gpu = ")][0]
            fit.write_text(text.replace(processor, 'gpu = "Z80"'))
            r = run("simulate", scenario, "--machine", fit)
            self.assertEqual(r.returncode, 2)
            self.assertIn("the calibration is of 'Z80'", r.stderr)
            self.assertEqual(run("simulate", scenario, "--machine", fit, "--force").returncode, 0)
            r = run("simulate", SOURCE / "scenarios/mixtral_h100.toml", "--machine", fit)
            self.assertEqual(r.returncode, 2)
            self.assertIn("the fit is of machine 'host'", r.stderr)
        self.assertEqual(run("calibrate", "--backend", "gpu").returncode, 2)

    def test_without_a_gpu_measurements_end_with_a_sentence(self):
        for args in (["calibrate", "--backend", "cuda"], ["bench", "kernels"],
                     ["run", SOURCE / "tests/cli/host_tiny.toml", "--backend", "cuda"]):
            r = run(*args, env={"CUDA_VISIBLE_DEVICES": ""})
            self.assertEqual(r.returncode, 3, r.stderr)
            self.assertEqual(r.stdout, "")
            self.assertRegex(r.stderr, r"^cuda: .+\n$")

    def test_run_refuses_what_it_cannot(self):
        tiny = (SOURCE / "tests/cli/host_tiny.toml").read_text().replace("../../", str(SOURCE) + "/")
        with tempfile.TemporaryDirectory() as d:
            path = pathlib.Path(d) / "s.toml"
            path.write_text(tiny.replace('machine = "host"', 'machine = "h100_sxm"').replace('activations = "f32"', 'activations = "f32"\nweights = "fp8"'))
            r = run("run", path)
            self.assertEqual(r.returncode, 1)
            self.assertIn("the host computes with f32, bf16 and f16", r.stdout)
            path.write_text(tiny.replace("sequences = 4", "sequences = 8000000"))
            r = run("run", path)
            self.assertEqual(r.returncode, 1)
            self.assertRegex(r.stdout, "ranks of this plan need .* of memory on the host")
        self.assertEqual(run("run", SOURCE / "tests/cli/host_tiny.toml", "--backend", "hots").returncode, 2)
        self.assertEqual(run("run", "/no/such.toml").returncode, 2)

    def test_place_writes_maps_that_it_reads_back(self):
        scenario = SOURCE / "scenarios/mixtral_h100.toml"
        with tempfile.TemporaryDirectory() as d:
            d = pathlib.Path(d)
            figures = {}
            for form in ("moesim", "sglang", "vllm"):
                r = run("place", scenario, "--method", "lpt", "--replicas", "8", "--steps", "1", "-o", d / f"{form}.json",
                        "--format", form, "--table", d / "map.csv", "--json")
                self.assertEqual(r.returncode, 0, r.stderr)
                figures[form] = json.loads(r.stdout)
            for form in ("moesim", "sglang", "vllm"):
                again = run("place", scenario, "--map", d / f"{form}.json", "--steps", "1", "--json")
                self.assertEqual(again.returncode, 0, again.stderr)
                read = json.loads(again.stdout)
                for key in ("max_over_mean", "judged", "slots_per_gpu", "moving"):
                    self.assertEqual(read[key], figures[form][key], form)
            rows = json.loads((d / "vllm.json").read_text())
            self.assertEqual([len(rows), len(rows[0])], [32, 16])
            self.assertEqual(json.loads((d / "sglang.json").read_text())["physical_to_logical_map"], rows)
            for row in rows:  # every expert has a slot, and no GPU one twice
                self.assertEqual(set(row), set(range(8)))
                for gpu in range(8):
                    self.assertNotEqual(row[2 * gpu], row[2 * gpu + 1])
            table = (d / "map.csv").read_text().splitlines()
            self.assertEqual(len(table), 1 + 32 * 16)
            # The loads of a layer's slots are its copies: 2 a token.
            layer = [float(line.split(",")[-1]) for line in table[1:] if line.startswith("0,")]
            self.assertAlmostEqual(sum(layer), 2 * figures["vllm"]["planned"]["tokens"], places=2)
            ours = figures["moesim"]
            self.assertGreaterEqual(ours["max_over_mean"], ours["lower_bound"])
            self.assertLess(ours["judged"]["straggler_factor"], ours["contiguous_judged"]["straggler_factor"])
            copies = ours["judged"]["dispatch_copies"]
            self.assertEqual(sum(copies.values()), 32 * 2 * ours["judged"]["tokens"])

    def test_place_from_a_trace_and_its_faults(self):
        with tempfile.TemporaryDirectory() as d:
            d = pathlib.Path(d)
            # 4 experts on 2 GPUs; expert 0 has half of the tokens, 1 a fourth, 2 and 3 an eighth: 0 | 1 2 3 is even,
            # and contiguous has 3/4 on the first GPU.
            ids = [0, 0, 0, 0, 1, 1, 2, 3] * 64
            trace = d / "routes.jsonl"
            trace.write_text("".join(json.dumps({"layer": 0, "topk_ids": [e]}) + "\n" for e in ids))
            given = ("place", "--trace", trace, "--gpus", "2", "--experts", "4")
            even = json.loads(run(*given, "--method", "moetuner", "--json").stdout)
            # As many experts on both: 0 3 | 1 2 is best, 5/8 on the first; that is not what was asked first.
            self.assertEqual((even["judged"]["max_over_mean"], even["fallback"]), (1.25, "equal_clusters"))
            given += ("--uneven-memory",)
            r = run(*given, "--method", "moetuner", "-o", d / "map.json", "--programs", d / "p", "--json")
            self.assertEqual(r.returncode, 0, r.stderr)
            found = json.loads(r.stdout)
            self.assertEqual(found["judged"]["max_over_mean"], 1.0)
            self.assertEqual(found["contiguous_judged"]["max_over_mean"], 1.5)
            self.assertIn("minimize", (d / "p.balance_l0.lp").read_text().lower())
            written = json.loads((d / "map.json").read_text())
            self.assertEqual(written["slot_begin"][0][-1], 4)
            # GPUs hold 1 and 3 experts: engines cannot load that.
            r = run(*given, "--method", "moetuner", "-o", d / "map.sglang.json", "--format", "sglang")
            self.assertEqual(r.returncode, 2)
            self.assertIn("different numbers of experts", r.stderr)
            self.assertFalse((d / "map.sglang.json").exists())
            for args, message in (
                    (("place", "--trace", trace, "--gpus", "2"), "--model NAME or --experts N"),
                    (("place", "--trace", trace, "--experts", "4"), "--gpus N"),
                    (("place", "--trace", trace, "--gpus", "2", "--experts", "3"), "routes.jsonl:7"),
                    ((*given, "--replicas", "3"), "4 experts and 3 replicas do not divide by 2 GPUs"),
                    ((*given, "--replicas", "6"), "a GPU holds each expert once"),
                    ((*given, "--nodes", "4"), "2 GPUs on 4 nodes"),
                    ((*given, "--memory-per-gpu", "1 GiB"), "--model NAME"),
                    ((*given, "--time-limit", "soon"), "--time-limit"),
                    ((*given, "--programs", d / "q"), "--method moetuner"),
                    ((*given, "--map", d / "map.json", "--mode", "sideways"), "sideways"),
                    (("place", "--trace", trace, "--gpus", "4", "--experts", "4", "--map", d / "map.json"), "gpus"),
                    (("place",), "a scenario or a trace"),
                    (("place", SOURCE / "scenarios/mixtral_h100.toml", "--gpus", "2"), "goes with --trace")):
                r = run(*args)
                self.assertEqual(r.returncode, 2, f"{args}: {r.stdout}")
                self.assertIn(message, r.stderr, args)

    def test_advise_tells_skewed_from_even(self):
        text = (SOURCE / "scenarios/mixtral_h100.toml").read_text()
        text = text.replace("sequences = 32", "sequences = 8").replace('name = "mixtral-8x7b"',
                                                                      'name = "mixtral-8x7b"\nlayers = 2')
        with tempfile.TemporaryDirectory() as d:
            d = pathlib.Path(d)
            (d / "skewed.toml").write_text(text)
            (d / "even.toml").write_text(text.replace('law = "zipf"\nexponent = 0.6', 'law = "uniform"'))
            outputs = {run("advise", d / "skewed.toml", "--steps", "3", "--json", env={"MOESIM_THREADS": n}).stdout
                       for n in ("1", "3")}
            self.assertEqual(len(outputs), 1)
            skewed = json.loads(outputs.pop())
            self.assertIn("balancing is worth it", skewed["verdict"])
            by_name = {c["name"]: c for c in skewed["contenders"]}
            self.assertEqual(list(by_name), ["contiguous", "eplb", "local_search", "expert_sharding", "tensor_parallel"])
            base, ours = by_name["contiguous"], by_name["local_search"]
            self.assertAlmostEqual(ours["saved"]["mean"], 1 - ours["step_us"] / base["step_us"], places=2)
            self.assertLess(ours["saved"]["low"], ours["saved"]["high"])
            # The move has paid when what it took is saved.
            moving = ours["moving"]
            saved = base["step_us"] - ours["step_us"]
            self.assertGreaterEqual(moving["pays_after_steps"] * saved, moving["least_us"] * 0.999)
            self.assertLess((moving["pays_after_steps"] - 1) * saved, moving["least_us"])
            # One more slot on a GPU: an expert's three matrices of 4096 x 14336 in bf16, 2 layers.
            self.assertEqual(ours["replica_bytes_per_gpu"], 3 * 4096 * 14336 * 2 * 2)
            r = run("advise", d / "even.toml", "--steps", "3")
            self.assertEqual(r.returncode, 0, r.stderr)
            self.assertIn("experts are even: balancing gains", r.stdout)
            self.assertEqual(run("advise", d / "none.toml").returncode, 2)

    def test_lists(self):
        for what, name in (("models", "deepseek-v3"), ("machines", "h200_sxm"), ("strategies", "expert_sharding"),
                           ("routing", "lognormal")):
            self.assertIn(name, run("list", what).stdout)
        self.assertEqual(run("list", "modles").returncode, 2)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1], verbosity=1)
