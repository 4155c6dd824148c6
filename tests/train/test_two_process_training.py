"""Two real processes (gloo) train together, stop together, go on together, and export once."""

import json
import shutil

import jax
import numpy as np
import pytest

import medusa_jax
from tests.train.processes import free_port, outputs_of
from tests.train.small_runs import (
    logged,
    make,
    run,
    start,
)

STEPS = 30
CHANGES = {
    "objective": "medusa1",
    "steps": STEPS,
    "learning_rate": 1e-4,
    "eval_every": STEPS,
    "save_every": STEPS,
}


@pytest.fixture(scope="module")
def names(model, data) -> dict[str, str]:
    return {"model": model, "data": data}


@pytest.fixture(scope="module")
def outputs(folder) -> list[str]:
    """What they printed. Rows lie over both, parameters over the two devices of each."""
    flags = [f"--coordinator_address=localhost:{free_port()}", "--num_processes=2"]
    flags += ["--config.mesh.data=2", "--config.mesh.fsdp=2"]
    where = {"module": "tests.train.two_trainers", "devices": 2, "compiled": folder / "compiled"}
    processes = [
        start(folder / "run", *flags, f"--process_id={i}", **where, **names(folder), **CHANGES)
        for i in range(2)
    ]
    return outputs_of(processes, seconds=200)


def test_they_stop_and_go_on_together(folder, outputs):
    before, after = outputs[0].split("again\n")
    assert "stopped and saved" in before
    assert "exported to" in after
    assert "exported" not in outputs[1]
    assert "saved" not in outputs[1]
    stopped, end = sorted(int(path.name) for path in (folder / "run" / "checkpoints").iterdir())
    assert 4 <= stopped < end == STEPS


@pytest.fixture(scope="module")
def alone(folder) -> list[dict]:
    return run(make(**names(folder), **CHANGES), folder / "alone")


def test_the_losses_are_those_of_one_process(folder, outputs, alone):
    rows = logged(folder / "run")
    assert [row["step"] for row in rows] == [*range(1, STEPS + 1)]
    assert "held_out/head_loss" in rows[-1]
    for row, expected in zip(rows, alone, strict=True):
        for name in expected.keys() & {"loss", "head_loss", "held_out/head_loss"}:
            np.testing.assert_allclose(row[name], expected[name], rtol=1e-5)


def test_one_process_goes_on_where_two_stopped(folder, outputs, alone):
    copy = folder / "copy"
    shutil.copytree(folder / "run", copy)
    shutil.rmtree(copy / "checkpoints" / str(STEPS))
    stopped = int(next((copy / "checkpoints").iterdir()).name)
    rows = run(make(**names(folder), **CHANGES), copy)
    assert [row["step"] for row in rows] == [*range(1, STEPS + 1)]
    for row, expected in zip(rows[stopped:], alone[stopped:], strict=True):
        np.testing.assert_allclose(row["loss"], expected["loss"], rtol=1e-5)


def test_the_export_is_that_of_one_process(folder, outputs, alone):
    exports = [folder / name / "export" for name in ("run", "alone")]
    together, single = (medusa_jax.load(str(export)) for export in exports)
    for found, expected in zip(
        jax.tree.leaves((together.params, together.heads_params)),
        jax.tree.leaves((single.params, single.heads_params)),
        strict=True,
    ):
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)
    configs = [json.loads((export / "config.json").read_text()) for export in exports]
    assert configs[0] == configs[1]
