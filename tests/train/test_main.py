"""The command line of `python -m train.main`: its help, and one line for what is wrong."""

import subprocess
import sys

import pytest

from tests.commands import ROOT, quick, run_many

ERRORS = {
    "--config=configs/tiny.py --config.stepz=3": (
        "config.stepz is unknown: did you mean config.steps?"
    ),
    "--config=configs/nowhere.py": "configs/nowhere.py",
    "--config=configs/tiny.py --config.mesh.data=1 --config.mesh.fsdp=3": (
        "the mesh data=1 fsdp=3 tensor=1 needs 3 devices, there are 2"
    ),
}


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    return tmp_path_factory.mktemp("folder") / "run"


@pytest.fixture(scope="module")
def results(workdir):
    commands = [[*case.split(), f"--workdir={workdir}"] for case in ERRORS]
    environment = quick() | {"JAX_NUM_CPU_DEVICES": "2"}
    return run_many("train.main", [*commands, ["--help"]], environment)


def test_errors_are_one_line_and_write_nothing(results, workdir):
    for (case, message), result in zip(ERRORS.items(), results[:-1], strict=True):
        assert (result.code, result.out, result.err.count("\n")) == (2, "", 1), case
        assert message in result.err
    assert not workdir.exists()


def test_the_real_process_exits_with_2_and_one_line():
    done = subprocess.run(
        [sys.executable, "-m", "train.main"], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)


def test_help_names_every_flag(results):
    assert (results[-1].code, results[-1].err) == (0, "")
    for flag in ("config", "workdir", "coordinator_address", "num_processes", "process_id"):
        assert f"--{flag}\n" in results[-1].out
