"""Arrows between rooms go one way: every #include is checked against the table in CONTRIBUTING.md."""

import pathlib
import re
import sys

ROOT = pathlib.Path(sys.argv[1])
ALLOWED = {
    "include": {"include"},
    "support": {"include", "support"},
    "plan": {"include", "support", "plan"},
    "models": {"include", "support", "models"},
    "strategies": {"include", "support", "plan", "models", "strategies"},
    "sim": {"include", "support", "plan", "models", "sim"},
    "backend": {"include", "support", "plan", "models", "backend"},
    "study": {"include", "support", "plan", "models", "strategies", "sim", "backend", "study"},
    "cli": {"include", "support", "plan", "models", "strategies", "sim", "backend", "study", "cli"},
}
faults, seen = [], 0
for room, allowed in ALLOWED.items():
    for path in sorted((ROOT / room).rglob("*")):
        if path.suffix not in (".hpp", ".cpp", ".cu", ".cuh", ".h"):
            continue
        seen += 1
        for number, line in enumerate(path.read_text().splitlines(), 1):
            found = re.match(r'\s*#\s*include\s+"([^"]+)"', line)
            if not found:
                continue
            target = found.group(1)
            to = "include" if target.startswith("moesim/") else target.split("/")[0]
            if to not in allowed:
                faults.append(f"{path.relative_to(ROOT)}:{number}: {room}/ must not include {target}")
            elif not (ROOT / ("include/" + target if to == "include" else target)).exists():
                faults.append(f"{path.relative_to(ROOT)}:{number}: {target} does not exist from the repository's root")
print("\n".join(faults) or f"{seen} files, all arrows go down")
sys.exit(1 if faults or seen < 50 else 0)
