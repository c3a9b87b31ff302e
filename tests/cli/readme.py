#!/usr/bin/env python3
"""README.md shows what commands print. readme.py check|update MOESIM

A block is what stands between two comments; text blocks are fenced, Markdown ones are as printed:

    <!-- output of: moesim ARGUMENTS -->
    <!-- output of: moesim ARGUMENTS, from "first words of the first line shown" -->
    ...
    <!-- end -->
"""
import pathlib
import re
import shlex
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
BLOCK = re.compile(r'(<!-- output of: moesim (?P<args>[^,\n]*?)(?:, from "(?P<start>[^"]*)")? -->\n)(?P<body>.*?)(<!-- end -->)',
                   re.DOTALL)


def printed(moesim, args, start):
    r = subprocess.run([moesim, *shlex.split(args)], cwd=ROOT, capture_output=True, text=True, check=True)
    out = r.stdout
    if start is not None:
        out = out[out.index(start):]
    return out if "--markdown" in args else f"```\n{out.rstrip()}\n```\n"


def main():
    mode, moesim = sys.argv[1], str(pathlib.Path(sys.argv[2]).resolve())
    old = README.read_text()
    blocks = list(BLOCK.finditer(old))
    if not blocks:
        sys.exit("README.md: no block of output found")
    new = BLOCK.sub(lambda m: m[1] + printed(moesim, m["args"], m["start"]) + m[5], old)
    if mode == "update":
        README.write_text(new)
    elif old != new:
        stale = [m["args"] for m in blocks if printed(moesim, m["args"], m["start"]) != m["body"]]
        sys.exit("README.md is stale; ./dev readme writes it anew. It differs from the output of:\n"
                 + "\n".join(f"  moesim {args}" for args in stale))


if __name__ == "__main__":
    main()
