#!/usr/bin/env python3
"""Executes every notebook headless, into a temporary folder. notebooks.py MOESIM [KEEP]

Each must run to its end and draw at least one picture. Skipped (77) where Jupyter is not installed. KEEP: a folder that
the executed notebooks are written to.
"""
import os
import pathlib
import subprocess
import sys
import tempfile

try:
    import ipykernel  # noqa: F401
    import matplotlib  # noqa: F401
    import nbformat
    import pandas  # noqa: F401
    from nbconvert.preprocessors import ExecutePreprocessor
except ImportError as missing:
    # Debian's packages belong to Debian's interpreter, which need not be the first in PATH.
    debian = "/usr/bin/python3"
    if os.path.exists(debian) and os.environ.get("MOESIM_NOTEBOOK_PYTHON") != debian:
        os.environ["MOESIM_NOTEBOOK_PYTHON"] = debian
        os.execv(debian, [debian, *sys.argv])
    print(f"skipped: {missing}")
    sys.exit(77)

ROOT = pathlib.Path(__file__).resolve().parents[2]


def pictures(notebook):
    return sum("image/png" in out.get("data", {}) for cell in notebook.cells for out in cell.get("outputs", []))


def main():
    moesim = pathlib.Path(sys.argv[1]).resolve()
    with tempfile.TemporaryDirectory() as scratch:
        keep = pathlib.Path(sys.argv[2] if len(sys.argv) > 2 else scratch)
        keep.mkdir(parents=True, exist_ok=True)
        os.environ["PATH"] = f"{moesim.parent}{os.pathsep}{os.environ['PATH']}"
        os.environ["MOESIM_NOTEBOOK_OUT"] = str(keep.resolve())
        for key in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "MPLCONFIGDIR"):
            os.environ[key] = scratch
        for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
            notebook = nbformat.read(path, as_version=4)
            ExecutePreprocessor(timeout=240).preprocess(notebook, {"metadata": {"path": str(keep)}})
            nbformat.write(notebook, keep / path.name)
            print(f"{path.name}: {pictures(notebook)} pictures")
            if pictures(notebook) == 0:
                sys.exit(f"{path.name} draws nothing")


main()
