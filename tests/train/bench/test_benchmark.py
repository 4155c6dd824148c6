"""The command line of the training benchmark. Nothing here depends on how fast anything is."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]


def benchmark(*argv: str) -> subprocess.CompletedProcess:
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("JAX_", "XLA_", "COLUMNS"))}
    return subprocess.run(
        [sys.executable, "-m", "train.benchmark", "--compilation_cache=none", *argv],
        cwd=ROOT,
        env=clean | {"JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_report_and_table(tmp_path):
    path = tmp_path / "out.json"
    argv = ("--shape=tiny", "--seq_len=16", "--steps=1", "--rounds=1", f"--output={path}")
    done = benchmark(*argv)
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


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--shape=tiny", "--model=x"], "--model and --shape exclude each other"),
        (["--shape=tiny", "--seq_len=5"], "--seq_len=6 is the least"),
        (["--shape=tiny", "--seq_len=2000"], "--seq_len=1024 is the most"),
        (["--model=nowhere/at/all"], "nowhere/at/all"),
        (["--shape=tiny", "--output=nowhere/out.json"], "nowhere/out.json"),
    ],
)
def test_bad_command_lines_end_in_one_line(argv, message):
    done = benchmark(*argv)
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
