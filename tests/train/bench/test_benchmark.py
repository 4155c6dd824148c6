"""The command line of the training benchmark. Nothing here depends on how fast anything is."""

import json
import subprocess
import sys

import pytest

from tests.commands import ROOT, quick, run_many


@pytest.fixture(scope="module")
def environment() -> dict[str, str]:
    return quick(without=("JAX_", "XLA_", "COLUMNS"))


def test_report_and_table(environment, tmp_path):
    path = tmp_path / "out.json"
    argv = ["--shape=tiny", "--seq_len=16", "--steps=1", "--rounds=1", f"--output={path}"]
    done = subprocess.run(
        [sys.executable, "-m", "train.benchmark", "--compilation_cache=none", *argv],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(path.read_text())
    assert report["command"].startswith("python -m train.benchmark --compilation_cache=none")
    assert {"commit", "cpu", "cores", "versions", "date"} < set(report)
    assert report["device"]["platform"] == "cpu"
    assert report["settings"]["num_heads"] == 4
    rows = {row["side"]: row for row in report["rows"]}
    assert {"streamed", "cached"} <= set(rows)
    for row in rows.values():
        assert f"{row['tokens_per_second']:.1f}" in done.stdout
        assert f"{row['first_loss']:.5f}" in done.stdout
    assert ("torch" in rows) != any("no torch" in note for note in report["notes"])


def test_bad_command_lines_end_in_one_line(environment):
    cases = {
        "--shape=tiny --model=x": "--model and --shape exclude each other",
        "--shape=tiny --seq_len=5": "--seq_len=6 is the least",
        "--shape=tiny --seq_len=2000": "--seq_len=1024 is the most",
        "--model=nowhere/at/all": "nowhere/at/all",
        "--shape=tiny --output=nowhere/out.json": "nowhere/out.json",
    }
    results = run_many("train.benchmark", [case.split() for case in cases], environment)
    for (case, message), done in zip(cases.items(), results, strict=True):
        (line,) = done.err.strip().splitlines()  # below a progress bar that has gone
        assert (done.code, done.out) == (2, ""), case
        assert message in line
