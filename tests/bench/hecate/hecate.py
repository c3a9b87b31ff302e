"""Hecate's comparison: the four models of arXiv 2502.02581, clusters A and B, 16 and 32 GPUs, as the tables of
docs/training.md, beside what the paper published.

    tests/bench/hecate/hecate.py build/release/cli/moesim [all|speedups|layers|intervals|overlap]

The scenarios are those that ship (scenarios/hecate_*.toml); intervals and overlap change one key of hecate_gpt_32.
"""
import argparse
import csv
import json
import math
import pathlib
import re
import subprocess
import tempfile

SCENARIOS = pathlib.Path(__file__).resolve().parents[3] / "scenarios"
NAMES = {"hecate-gpt-s": "GPT-S", "hecate-gpt-l": "GPT-L", "hecate-bert": "BERT", "hecate-bert-deep": "BERT-Deep"}
CLUSTERS = {"v100_32g": "A", "a100_40g": "B"}
STRATEGIES = ["hecate", "hecate_again", "hecate_materialization", "hecate_sharding", "fastermoe", "flexmoe", "smartmoe", "fsdp"]


def simulate(program, scenario, out):
    subprocess.run([program, "simulate", str(scenario), "--out", str(out)], check=True, stdout=subprocess.DEVNULL)
    points = json.loads((out / "report.json").read_text())["points"]
    for point in points:
        point["at"] = {key: value.strip('"') for key, value in point["at"].items()}
    return points


def table(head, rows):
    print("| " + " | ".join(head) + " |")
    print("|" + "---|" * len(head))
    for row in rows:
        print("| " + " | ".join(row) + " |")
    print()


def percent(ratio):
    return f"{100 * (ratio - 1):+.0f} %"


def memory(strategy, *roles):
    by_role = strategy["memory"]["by_role"]
    return sum(by_role.get(role, 0) for role in roles) if roles else strategy["memory"]["peak_bytes"]


def speedups(program, scratch):
    for gpus in (16, 32):
        columns = []
        for family in ("gpt", "bert"):
            for point in simulate(program, SCENARIOS / f"hecate_{family}_{gpus}.toml", scratch / f"{family}{gpus}"):
                at = point["at"]
                name = f"{CLUSTERS[at['cluster.machine']]}, {NAMES[at['model.name']]}"
                columns.append((name, {s["strategy"]: s for s in point["strategies"]}))
        columns.sort(key=lambda c: c[0][0])
        head = [f"{gpus} GPUs"] + [name for name, _ in columns]

        def row(title, value):
            return [title] + [value(s) for _, s in columns]

        rows = []
        for label in STRATEGIES:
            def value(s, label=label):
                one = s[label]
                if not one.get("possible", True):
                    return "-"
                return f"{one['speedup']:.2f} ({one['moe_layer_speedup']:.2f})"
            rows.append(row(f"`{label}`", value))
        table(head, rows)

        def ratio(of, to, key):
            return lambda s: f"{s[to][key] / s[of][key]:.2f}"

        published = {16: "A 1.40-1.58", 32: "A 1.34-1.78, B 1.26-1.70"}[gpus]
        rows = [
            [f"Hecate over EP ({published})"] + [f"{s['hecate']['speedup']:.2f}" for _, s in columns],
            row("MoE layer over EP (GPT-S, B: 2.8-18.8)", ratio("hecate", "expert_parallel", "moe_layer_us")),
            row("MoE layer over sharding alone (3.32)", ratio("hecate", "hecate_sharding", "moe_layer_us")),
            row("MoE layer over materialization alone (1.27)", ratio("hecate", "hecate_materialization", "moe_layer_us")),
            row("parameters and copies against EP (5.73)",
                lambda s: f"{memory(s['hecate'], 'weight', 'gathered') / memory(s['expert_parallel'], 'weight'):.2f}"),
            row("memory against EP (+64 %)",
                lambda s: percent(memory(s["hecate"]) / memory(s["expert_parallel"]))),
            row("with re-materialization (+11.6 %)",
                lambda s: percent(memory(s["hecate_again"]) / memory(s["expert_parallel"]))),
            row("re-materialization slower by (7.5-16.9 %)",
                lambda s: percent(s["hecate_again"]["step_us"] / s["hecate"]["step_us"])),
            row("straggler factor of EP (up to 5.18)", lambda s: f"{s['expert_parallel']['straggler_factor']:.2f}"),
        ]
        table([f"{gpus} GPUs (published)"] + head[1:], rows)


def variant(base, scratch, name, strategies, iterations=None, sweep=None):
    """hecate_gpt_32 with other strategies and sweep."""
    text = (SCENARIOS / base).read_text()
    text = re.split(r"^\[\[(?:strategy|sweep|published)\]\]", text, flags=re.M)[0]
    if iterations:
        text = re.sub(r"iterations = \d+", f"iterations = {iterations}", text)
    text += "".join(strategies) + (sweep or "")
    path = scratch / f"{name}.toml"
    path.write_text(text)
    return path


BOTH = '[[sweep]]\nkey = "cluster.machine"\nvalues = ["v100_32g", "a100_40g"]\n'
EP = '[[strategy]]\nkind = "expert_parallel"\n'


def intervals(program, scratch):
    """Over 100 iterations."""
    every = [10, 25, 50, 100]
    strategies = [EP] + [f'[[strategy]]\nkind = "hecate"\nname = "every_{n}"\nreshard_every = {n}\n' for n in every]
    points = simulate(program, variant("hecate_gpt_32.toml", scratch, "intervals", strategies, 100, BOTH), scratch / "intervals")
    rows = []
    for point in points:
        by = {s["strategy"]: s for s in point["strategies"]}
        rows.append([CLUSTERS[point["at"]["cluster.machine"]]] + [f"{by[f'every_{n}']['speedup']:.2f}" for n in every])
    table(["GPT-S, 32 GPUs, 100 iterations"] + [f"every {n}" for n in every], rows + [["published"] + "1.36 1.41 1.34 1.42".split()])


def overlap(program, scratch):
    degrees = [0, 1, 2, 3, 4, 6, 8]
    strategies = [EP] + [f'[[strategy]]\nkind = "hecate_materialization"\nname = "t_{t}"\noverlap_degree = {t}\ncalibrate = false\n'
                         for t in degrees]
    strategies.append('[[strategy]]\nkind = "hecate_materialization"\nname = "own"\ncalibrate = false\n')
    points = simulate(program, variant("hecate_gpt_32.toml", scratch, "overlap", strategies, 4, BOTH), scratch / "overlap")
    rows = []
    for point in points:
        by = {s["strategy"]: s for s in point["strategies"]}
        exposed = {k: s["parts_us"]["parameters"] / 1e3 for k, s in by.items()}
        rows.append([CLUSTERS[point["at"]["cluster.machine"]]] + [f"{exposed[f't_{t}']:.1f}" for t in degrees] + [f"{exposed['own']:.1f}"])
    table(["GPT-S, 32 GPUs: exposed, ms an iteration"] + [f"t = {t}" for t in degrees] + ["its own t"], rows)


def layer_times(path):
    """Router to combine of each layer in the forward pass of the last iteration, mean over ranks, us."""
    begin, end = {}, {}
    with open(path) as file:
        for row in csv.DictReader(file):
            match = re.fullmatch(r"l(\d+)\.moe\.(router|unpermute)", row["op"])
            if match:
                key = int(match[1]), row["rank"]
                (begin if match[2] == "router" else end)[key] = float(row["start_us" if match[2] == "router" else "end_us"])
    layers = sorted({layer for layer, _ in begin})
    return [sum(end[k] - begin[k] for k in begin if k[0] == layer) for layer in layers]


def layers(program, scratch):
    out = scratch / "layers"
    strategies = [EP, '[[strategy]]\nkind = "hecate"\n']
    simulate(program, variant("hecate_gpt_32.toml", scratch, "layers", strategies, None, BOTH), out)
    rows = []
    for machine, cluster in CLUSTERS.items():
        point = next(d for d in out.iterdir() if machine in d.name)
        ratios = [e / h for e, h in zip(layer_times(point / "expert_parallel.ops.csv"), layer_times(point / "hecate.ops.csv"))]
        mean = math.exp(sum(map(math.log, ratios)) / len(ratios))
        rows.append([cluster, f"{min(ratios):.2f}", f"{mean:.2f}", f"{max(ratios):.2f}"])
    table(["GPT-S, 32 GPUs, MoE layers over EP, forward", "least", "geometric mean", "most"], rows + [["B, published", "2.8", "11.87", "18.8"]])


TABLES = {"speedups": speedups, "layers": layers, "intervals": intervals, "overlap": overlap}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", type=pathlib.Path, help="moesim, as built")
    parser.add_argument("what", nargs="?", choices=["all", *TABLES], default="all")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        for name, run in TABLES.items():
            if args.what in ("all", name):
                run(args.program.resolve(), pathlib.Path(directory))


if __name__ == "__main__":
    main()
