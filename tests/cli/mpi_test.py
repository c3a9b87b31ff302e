"""Ranks as processes: the same bytes as threads, and an end when a rank dies or hangs. Usage: mpi_test.py MOESIM SOURCE_DIR"""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time
import unittest

MOESIM, SOURCE = sys.argv[1], pathlib.Path(sys.argv[2])
SCENARIO = SOURCE / "tests/cli/host_tiny.toml"
SKIPPED = 77  # SKIP_RETURN_CODE of ctest
MPIRUN = ["mpirun", "--oversubscribe", *(["--allow-run-as-root"] if os.geteuid() == 0 else [])]


def start(n, *args):
    return subprocess.Popen([*MPIRUN, "-n", str(n), MOESIM, "run", SCENARIO, "--transport", "mpi", *map(str, args)],
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def rank_at_work(mpirun, rank, within=120):
    """The pid of a rank that is past the start of MPI, which has no patience of ours: a child of mpirun with
    OMPI_COMM_WORLD_RANK in its environment, and more processor time than starting takes."""
    enough = 0.6 * os.sysconf("SC_CLK_TCK")
    wanted = f"OMPI_COMM_WORLD_RANK={rank}".encode()
    end = time.monotonic() + within
    while time.monotonic() < end:
        for path in pathlib.Path("/proc").glob("[0-9]*"):
            try:
                fields = (path / "stat").read_text().rpartition(")")[2].split()
                if (int(fields[1]) == mpirun.pid and int(fields[11]) + int(fields[12]) > enough and
                        wanted in (path / "environ").read_bytes().split(b"\0")):
                    return int(path.name)
            except (OSError, ValueError):
                continue
        time.sleep(0.05)
    raise AssertionError(f"mpirun started no rank {rank}")


class Mpi(unittest.TestCase):
    def start(self, n, *args):
        run = start(n, *args)
        self.addCleanup(run.communicate)
        self.addCleanup(run.kill)
        return run

    def test_processes_compute_what_threads_compute(self):
        r = self.start(2, "--repeat", 2, "--json")
        out, err = r.communicate(timeout=120)
        self.assertEqual(r.returncode, 0, err)
        threads = subprocess.run([MOESIM, "run", SCENARIO, "--repeat", "2", "--mode", "threads", "--json"],
                                 capture_output=True, text=True, timeout=120)
        hashes = [{s["strategy"]: s["measured"]["result_hash"] for s in json.loads(text)["points"][0]["strategies"]}
                  for text in (out, threads.stdout)]
        self.assertEqual(len(hashes[0]), 3)
        self.assertEqual(hashes[0], hashes[1])

    def test_the_number_of_processes_is_the_number_of_ranks(self):
        r = self.start(3)
        out, _ = r.communicate(timeout=120)
        self.assertNotEqual(r.returncode, 0)
        self.assertIn("use 'mpirun -n 2'", out)

    def ended_by(self, sent, patience):
        """What a run prints after rank 1 got a signal. Open MPI 4.1 may wait for ever for a rank that it loses while it
        starts, which processor time tells only roughly: a second run decides."""
        for attempt in range(2):
            r = self.start(2, "--repeat", 1000, "--patience", patience)
            os.kill(rank_at_work(r, 1), sent)
            try:
                _, err = r.communicate(timeout=30)
            except subprocess.TimeoutExpired:
                if attempt == 1:
                    raise
                r.kill()
                continue
            self.assertNotEqual(r.returncode, 0)
            return err

    def test_a_rank_that_dies_ends_the_run(self):
        self.ended_by(signal.SIGKILL, 5)

    def test_a_rank_that_hangs_ends_the_run_with_its_name(self):
        self.assertIn("rank 0 has heard nothing from rank 1 for 2 s", self.ended_by(signal.SIGSTOP, 2))


if __name__ == "__main__":
    if shutil.which("mpirun") is None or not pathlib.Path(MOESIM).with_name("moesim_mpi.so").exists():
        print("no mpirun, or a build without the MPI transport")
        sys.exit(SKIPPED)
    unittest.main(argv=sys.argv[:1], verbosity=1)
