"""The campaign without a GPU, and its steps over programs that stand in for those that need one.
Usage: campaign_test.py SOURCE_DIR BUILD_DIR"""

import os
import pathlib
import subprocess
import sys
import tarfile
import tempfile
import unittest

SOURCE, BUILD = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
CAMPAIGN = SOURCE / "backend/cuda/campaign.sh"
# As the campaign runs them: small ones first.
SCENARIOS = sorted((p.stem for p in (SOURCE / "scenarios").glob("cuda_*.toml")),
                   key=lambda n: (("mixtral" not in n) + ("deepseek" in n), n))


def campaign(build, out, *options, **env):
    return subprocess.run([CAMPAIGN, "--build", build, *options, out], capture_output=True, text=True, timeout=120,
                          env={**os.environ, **env})


class Campaign(unittest.TestCase):
    def setUp(self):
        temporary = tempfile.TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        self.folder = pathlib.Path(temporary.name)
        self.out = self.folder / "results"

    # A build whose test_gpu and moesim are these shell scripts.
    def stand_in(self, test_gpu, moesim):
        for path, text in (("tests/backend/cuda/test_gpu", test_gpu), ("cli/moesim", moesim)):
            file = self.folder / "build" / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(f"#!/bin/sh\n{text}\n")
            file.chmod(0o755)
        return self.folder / "build"

    def summary(self):
        return [(line.split()[0], "ok" in line.split()[1:2]) for line in (self.out / "summary.txt").read_text().splitlines()
                if not line.startswith(("compute-sanitizer", "campaign:", "MoE layers"))]

    def test_without_a_gpu_it_says_so_and_leaves_no_archive(self):
        r = campaign(BUILD, self.out, CUDA_VISIBLE_DEVICES="")
        self.assertEqual(r.returncode, 3, r.stderr)
        self.assertRegex(r.stderr, r"^campaign: nothing is measured here, \S.+\n$")
        self.assertFalse(self.out.with_suffix(".tar.gz").exists())

    def test_every_step_runs_and_the_archive_holds_what_each_said(self):
        build = self.stand_in("echo fine", 'echo "$@"; for a; do case $a in *.fit.toml) [ "$1" = calibrate ] && echo x >$a;; esac; done; true')
        r = campaign(build, self.out)
        self.assertEqual(r.returncode, 0, r.stdout + r.stderr)
        steps = self.summary()
        expected = ["gpu_tests", "kernels", "calibrate"]
        for name in SCENARIOS:
            expected += [f"{name}.run", f"{name}.predict", f"{name}.compare"]
        self.assertEqual([s for s, _ in steps if not s.startswith("sanitizer")], expected)
        self.assertTrue(all(good for _, good in steps))
        with tarfile.open(self.out.with_suffix(".tar.gz")) as archive:
            names = archive.getnames()
            said = archive.extractfile(f"results/{SCENARIOS[0]}.predict.txt").read().decode()
        for step in expected + ["summary", "versions"]:
            self.assertIn(f"results/{step}.txt", names)
        # Predictions run on what was calibrated a moment before.
        self.assertIn(f"--machine {self.out}/this.fit.toml", said)

    def test_a_step_that_fails_is_named_and_the_rest_goes_on(self):
        build = self.stand_in("echo fine", 'case $1 in run) echo no; exit 70;; *) echo "$@";; esac')
        r = campaign(build, self.out)
        self.assertEqual(r.returncode, 1)
        steps = dict(self.summary())
        self.assertFalse(steps[f"{SCENARIOS[0]}.run"])
        self.assertNotIn(f"{SCENARIOS[0]}.compare", steps)
        self.assertTrue(self.out.with_suffix(".tar.gz").exists())
        # No fit was written, so none is used.
        self.assertTrue(steps["calibrate"])

    def test_wrong_results_are_said_and_the_rest_goes_on(self):
        r = campaign(self.stand_in("echo wrong; exit 1", "echo fine"), self.out)
        self.assertEqual(r.returncode, 1)
        self.assertIn("the GPU's results are wrong", r.stderr)
        text = (self.out / "summary.txt").read_text()
        self.assertIn("the GPU's results are wrong", text)
        self.assertIn(f"{SCENARIOS[0]}.compare", text)

    def test_only_the_steps_that_are_asked_for(self):
        build = self.stand_in("echo fine", 'echo "$@"')
        r = campaign(build, self.out, "--only", "tests,kernels")
        self.assertEqual(r.returncode, 0, r.stdout + r.stderr)
        self.assertEqual([s for s, _ in self.summary()], ["gpu_tests", "kernels"])
        r = campaign(build, self.out, "--only", "matrix")
        steps = dict(self.summary())
        self.assertEqual(len(steps), 3 * len(SCENARIOS))
        for name in SCENARIOS:
            self.assertNotIn("--virtual-ranks", (self.out / f"{name}.predict.txt").read_text())
            self.assertIn("--judge moe-layer", (self.out / f"{name}.compare.txt").read_text())
        r = campaign(build, self.out, "--only", "tests,kernel")
        self.assertEqual(r.returncode, 2)
        self.assertIn("there is no step 'kernel'", r.stderr)

    # Writes, as `run` does, what it has measured when it is interrupted.
    def test_what_was_measured_by_the_limit_is_compared(self):
        build = self.stand_in("echo fine", """
            [ "$1" = run ] || { echo "$@"; exit 0; }
            for out; do :; done  # the last argument
            mkdir -p "$out"; echo '{"kind":"measured_virtual_ranks"}' >"$out/a.timeline.json"; echo >"$out/report.json"
            case $2 in *mixtral_skewed*) trap 'exit 0' INT; sleep 9 & wait;; esac""")
        campaign(build, self.out, "--only", "matrix", MOESIM_CAMPAIGN_RUN_SECONDS="1")
        text = (self.out / "summary.txt").read_text()
        self.assertRegex(text, f"{SCENARIOS[0]}.run +out of time")
        said = (self.out / f"{SCENARIOS[0]}.predict.txt").read_text()
        self.assertIn("--virtual-ranks", said)
        self.assertIn(f"{SCENARIOS[0]}.compare", text)

    def test_it_ends_in_its_time(self):
        build = self.stand_in("echo fine", "sleep 30")
        r = campaign(build, self.out, MOESIM_CAMPAIGN_SECONDS="6")
        self.assertEqual(r.returncode, 1)
        text = (self.out / "summary.txt").read_text()
        self.assertIn("out of time", text)
        self.assertTrue(self.out.with_suffix(".tar.gz").exists())


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
