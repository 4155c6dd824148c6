"""A save that did not end: leftovers are never read, and kill -9 at any moment loses no step."""

import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medusa_jax.errors import UserError
from medusa_jax.mesh import make_mesh
from tests.train.saved_states import assert_same, make, steps_on_disk
from tests.train.small_disk import largest_file
from train.checkpoints import read_params


def test_leftovers_of_a_save_are_not_picked_up(tmp_path):
    state = {"x": jnp.ones(())}
    with make(tmp_path) as checkpoints:
        checkpoints.save(1, state)
    folder = tmp_path / "checkpoints"
    shutil.copytree(folder / "1", folder / "2.orbax-checkpoint-tmp")
    assert read_params_step(tmp_path) == 1
    with make(tmp_path) as checkpoints:
        assert checkpoints.latest == 1
        assert_same(checkpoints.restore({"x": jnp.zeros(())}), state)
        checkpoints.save(2, state)
    assert steps_on_disk(tmp_path) == [1, 2]


def test_a_full_disk_is_one_line_and_keeps_the_steps_before(tmp_path):
    rows = np.random.default_rng(0).random((300, 300), np.float32)  # nothing to compress
    state = {"x": jnp.asarray(rows)}
    with make(tmp_path) as checkpoints:
        checkpoints.save(1, state)
        checkpoints.wait()
        with largest_file(50_000):
            checkpoints.save(2, state)
            with pytest.raises(UserError) as error:
                checkpoints.wait()
    assert str(error.value) == (
        f"cannot write to {tmp_path} (File too large): mend that, then rerun the same command to "
        "resume from the last checkpoint"
    )
    with make(tmp_path) as checkpoints:
        assert checkpoints.latest == 1
        assert_same(checkpoints.restore({"x": jnp.zeros((300, 300))}), state)


def read_params_step(workdir) -> int:
    """Another reader, at the same time: it must not clean up."""
    before = sorted((workdir / "checkpoints").iterdir())
    with pytest.raises(KeyError, match="params"):
        read_params(workdir, make_mesh(1))
    assert sorted((workdir / "checkpoints").iterdir()) == before
    return max(int(path.name) for path in before if path.name.isdigit())


def test_half_deleted_old_checkpoint(tmp_path):
    state = {"x": jnp.ones(())}
    with make(tmp_path, keep=2) as checkpoints:
        checkpoints.save(1, state, score=-5.0)
        checkpoints.save(2, state, score=-2.0)
        checkpoints.save(3, state, score=-3.0)
    folder = tmp_path / "checkpoints" / "2"
    for name in ("state", "metrics", "_CHECKPOINT_METADATA"):
        path = folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    with make(tmp_path, keep=2) as checkpoints:
        assert (checkpoints.latest, checkpoints.best) == (3, 3)
        assert_same(checkpoints.restore(state), state)
        checkpoints.save(4, state)
        checkpoints.save(5, state)
    assert steps_on_disk(tmp_path) == [3, 4, 5]


KILLED = """
import sys
import jax, jax.numpy as jnp
from train.checkpoints import Checkpoints
with Checkpoints(sys.argv[1], save_every=1, keep=2, fingerprint={}) as checkpoints:
    state = {"x": jnp.zeros((1 << 22,)), "y": [jnp.zeros((8,))] * 9}
    for step in range(1, 10**6):
        state = jax.tree.map(lambda x: x + 1, state)
        checkpoints.save(step, state)
"""


def test_killed_while_saving(tmp_path):
    """kill -9 when a step has begun to appear on disk, until one is left unfinished."""
    folder = tmp_path / "checkpoints"
    command = [sys.executable, "-c", KILLED, str(tmp_path)]
    for after in (2, 4, 6, 8):
        with subprocess.Popen(command, cwd=Path(__file__).parents[2]) as process:
            while not unfinished(folder, after):
                assert process.poll() is None
                time.sleep(0.001)
            process.kill()
        assert process.returncode == -signal.SIGKILL
        if unfinished(folder, after):
            break
    assert unfinished(folder, after)
    state = {"x": jnp.zeros((1 << 22,)), "y": [jnp.zeros((8,))] * 9}
    with make(tmp_path, fingerprint={}) as checkpoints:
        assert checkpoints.latest >= 2
        for leaf in jax.tree.leaves(checkpoints.restore(state)):
            np.testing.assert_array_equal(np.asarray(leaf), checkpoints.latest)
        checkpoints.save(checkpoints.latest + 1, state)
    assert not unfinished(folder, after=0)


def unfinished(folder: Path, after: int) -> list[str]:
    """Steps later than `after` that are being written, or were when the process died."""
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    return [name for name in names if "tmp" in name and int(name.partition(".")[0]) > after]
