"""Which checkpoints are kept in the folder of a run that an earlier version began."""

import json
from pathlib import Path

import jax.numpy as jnp
import pytest

from tests.train.saved_states import make, steps_on_disk

STATE = {"x": jnp.zeros(())}


@pytest.fixture
def old_run(tmp_path) -> Path:
    """Steps 1, 2 and 3 as an earlier version saved them, with a loss and no score."""
    with make(tmp_path) as checkpoints:
        for step in (1, 2, 3):
            checkpoints.save(step, STATE)
    for step, loss in ((1, 2.0), (2, 1.5), (3, float("nan"))):
        file = tmp_path / "checkpoints" / str(step) / "metrics" / "metrics"
        file.write_text(json.dumps({"held_out_loss": loss}))
    return tmp_path


def test_the_lowest_loss_is_kept_until_a_step_has_a_score(old_run):
    with make(old_run, keep=1) as checkpoints:
        assert checkpoints.best is None
        checkpoints.save(4, STATE)
        checkpoints.save(5, STATE)
    assert steps_on_disk(old_run) == [2, 5]
    with make(old_run, keep=1) as checkpoints:
        assert checkpoints.is_best(1.2)
        checkpoints.save(6, STATE, score=1.2)
        checkpoints.save(7, STATE)
        checkpoints.wait()
        assert checkpoints.best == 6
    assert steps_on_disk(old_run) == [6, 7]
