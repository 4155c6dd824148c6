"""Two real processes (gloo) train, stop and resume together, and export once."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import medusa_jax
from tests.train.processes import free_port, outputs_of
from tests.train.small_runs import CACHED, logged, make, run, start

STEPS = 30
CHANGES = {"steps": STEPS, "learning_rate": 1e-4, "eval_every": STEPS, "save_every": STEPS}


@pytest.fixture(scope="module")
def names(model, data) -> dict[str, str]:
    return {"model": model, "data": data}


@dataclasses.dataclass(frozen=True)
class Case:
    """How two processes share a run.

    Attributes:
      data, fsdp: of the mesh.
      devices: of each process.
      changes: of the configuration.
    """

    data: int
    fsdp: int
    devices: int
    changes: dict[str, Any]


CASES = {
    # Rows lie over both processes, parameters over the two devices of each; both make the hidden
    # states, and read those of their rows.
    "rows": Case(2, 2, 2, CHANGES | CACHED),
    # Every matrix of backbone and heads, all trained, lies over both.
    "fsdp": Case(1, 2, 1, CHANGES | {"objective": "medusa2"}),
}


@dataclasses.dataclass(frozen=True)
class Runs:
    """Folders of the same run by two processes and by one, and what the two printed."""

    case: Case
    together: Path
    outputs: list[str]
    alone: Path


@pytest.fixture(scope="module", params=CASES)
def runs(request, small, names, program_folder) -> Runs:
    case = CASES[request.param]
    folder = small / request.param
    flags = [f"--coordinator_address=localhost:{free_port()}", "--num_processes=2"]
    flags += [f"--config.mesh.data={case.data}", f"--config.mesh.fsdp={case.fsdp}"]
    where = {"devices": case.devices, "compiled": program_folder}
    where |= {"module": "tests.train.two_trainers"}
    processes = [
        start(folder / "run", *flags, f"--process_id={i}", **where, **names, **case.changes)
        for i in range(2)
    ]
    outputs = outputs_of(processes, seconds=400)
    run(make(**names, **case.changes), folder / "alone")
    return Runs(case, folder / "run", outputs, folder / "alone")


def saved_steps(workdir: Path) -> list[int]:
    return sorted(int(path.name) for path in (workdir / "checkpoints").iterdir())


def test_they_stop_together_and_resume_together(runs):
    before, after = runs.outputs[0].split("again\n")
    assert "stopped and saved" in before
    assert "rerun the same command to resume" in before
    assert "exported to" in after
    assert "exported" not in runs.outputs[1]
    assert "saved" not in runs.outputs[1]
    stopped, end = saved_steps(runs.together)
    assert 4 <= stopped < end == STEPS


def assert_same_losses(found: list[dict], expected: list[dict]) -> None:
    for row, other in zip(found, expected, strict=True):
        for name in other.keys() & {"loss", "lm_loss", "head_loss", "held_out/head_loss"}:
            np.testing.assert_allclose(row[name], other[name], rtol=2e-5, err_msg=name)


def test_the_losses_are_those_of_one_process(runs):
    rows = logged(runs.together)
    assert [row["step"] for row in rows] == [*range(1, STEPS + 1)]
    assert "held_out/head_loss" in rows[-1]
    assert_same_losses(rows, logged(runs.alone))


def test_each_process_has_written_its_half_of_the_parameters(runs):
    """With FSDP over both; where each holds them all, one of them writes."""
    step = runs.together / "checkpoints" / str(STEPS) / "state"
    writers = sorted(path.name for path in step.glob("ocdbt.process_*"))
    assert writers == ["ocdbt.process_0", "ocdbt.process_1"]
    sizes = [sum(x.stat().st_size for x in (step / name).rglob("*")) for name in writers]
    if runs.case.data == 1:
        assert max(sizes) < 1.1 * min(sizes)


def test_one_process_resumes_where_two_stopped(runs, names, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(runs.together, copy)
    shutil.rmtree(copy / "checkpoints" / str(STEPS))
    (stopped,) = saved_steps(copy)
    rows = run(make(**names, **runs.case.changes), copy)
    assert [row["step"] for row in rows] == [*range(1, STEPS + 1)]
    assert_same_losses(rows[stopped:], logged(runs.alone)[stopped:])


def test_the_export_is_that_of_one_process(runs):
    exports = [folder / "export" for folder in (runs.together, runs.alone)]
    together, single = (medusa_jax.load(str(export)) for export in exports)
    for found, expected in zip(
        jax.tree.leaves((together.params, together.heads_params)),
        jax.tree.leaves((single.params, single.heads_params)),
        strict=True,
    ):
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)
    configs = [json.loads((export / "config.json").read_text()) for export in exports]
    assert configs[0].pop("base_model_name_or_path", "") == configs[1].pop(
        "base_model_name_or_path", ""
    ).replace("alone", "run")
    assert configs[0] == configs[1]
