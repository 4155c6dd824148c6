"""The command line of `python -m train.main`: its help, and one line for what is wrong."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def command(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "train.main", *arguments],
        cwd=ROOT,
        env=os.environ | {"JAX_NUM_CPU_DEVICES": "2"},
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--config=configs/tiny.py", "--config.stepz=3"],
            "config.stepz is unknown: did you mean config.steps?",
        ),
        (["--config=configs/nowhere.py"], "configs/nowhere.py"),
        (
            ["--config=configs/tiny.py", "--config.mesh.data=1", "--config.mesh.fsdp=3"],
            "the mesh data=1 fsdp=3 tensor=1 needs 3 devices, there are 2",
        ),
    ],
)
def test_errors_are_one_line_and_write_nothing(tmp_path, arguments, message):
    done = command(*arguments, f"--workdir={tmp_path / 'run'}")
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_help_names_every_flag():
    done = command("--help")
    assert done.returncode == 0, done.stderr
    for flag in ("config", "workdir", "coordinator_address", "num_processes", "process_id"):
        assert f"--{flag}\n" in done.stdout
