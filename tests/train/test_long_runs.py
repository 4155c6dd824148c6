"""Runs of many steps: one that is killed and terminated, and two stages that learn something."""

import signal
from pathlib import Path

import jax
import numpy as np
import pytest

import medusa_jax
from medusa_jax.mesh import make_mesh
from tests.train.small_runs import (
    CACHED,
    REPLY,
    greedy,
    logged,
    make,
    run,
    start,
    stopped_after,
    wait_for,
)
from train.checkpoints import read_params


@pytest.fixture(scope="module")
def learned(model, data, tmp_path_factory) -> tuple[Path, Path]:
    """Folders of the two stages of MEDUSA-2: heads alone, then everything from these heads."""
    folder = tmp_path_factory.mktemp("learned")
    heads = {
        "conditioning": "root",
        "draft_vocab": 40,
        "own_projection": False,
        "export_format": "C",
    }
    often = {"steps": 60, "learning_rate": 1e-2, "eval_every": 60, "save_every": 60}
    run(make(model, data, **CACHED, **heads, **often), folder / "1")
    medusa = str(folder / "1" / "export")
    second = make(model, data, objective="medusa2", medusa=medusa, **heads, **often)
    stopped_after(1, second, folder / "2")
    first_step = read_params(folder / "2", make_mesh(1))[1]
    run(second, folder / "2")
    return folder, first_step


def test_the_second_stage_starts_from_the_heads_of_the_first(learned):
    folder, first_step = learned
    heads = read_params(folder / "1", make_mesh(1))[1]["heads"]
    assert np.abs(heads["root"]["weight"]).max() > 1e-3
    # At the first step the learning rate is 0.
    jax.tree.map(np.testing.assert_array_equal, first_step["heads"], heads)


def test_trained_heads_speed_up_and_change_nothing(learned):
    export = learned[0] / "2" / "export"
    lm = medusa_jax.load(str(export), tree="mc_sim_7b_63")
    assert lm.heads_config.conditioning == "root"
    assert lm.heads_config.draft_vocab
    assert lm.heads_config.vocab_size < 40
    medusa, plain = greedy(lm, "mc_sim_7b_63"), greedy(lm, "chain:0")
    assert medusa.token_ids == plain.token_ids
    assert plain.text == REPLY
    assert medusa.num_steps < plain.num_steps / 2


def test_killed_and_terminated(model, data, program_folder, tmp_path):
    """kill -9 at any moment; then SIGTERM; then to the end."""
    changes = {"model": model, "data": data, "objective": "medusa1"}
    changes |= {"steps": 120, "save_every": 10, "eval_every": 60}
    workdir = tmp_path / "run"
    where = {"devices": jax.device_count(), "compiled": program_folder}
    process = start(workdir, "--config.mesh.data=1", **where, **changes)
    wait_for(process, lambda: (workdir / "checkpoints" / "20").exists())
    process.kill()
    output, _ = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL, output
    reached = len(logged(workdir))
    process = start(workdir, "--config.mesh.data=1", **where, **changes)
    wait_for(process, lambda: len(logged(workdir)) > reached + 10)
    process.terminate()
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0, output
    assert "stopped and saved" in output
    assert not (workdir / "export").exists()
    settings = make(**changes)
    rows = run(settings, workdir)
    assert len(rows) == 120
    assert rows == run(settings, tmp_path / "whole")
