"""Tests train/checkpoints.py: what is restored, what is kept, what is refused, and kill -9."""

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import grain
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from medusa_jax.errors import UserError
from medusa_jax.sharding import make_mesh, param_shardings, with_shardings
from train.checkpoints import Checkpoints, read_params

FINGERPRINT = {"model": "tiny", "num_heads": 4, "lora": {"rank": 8}, "seeds": [1, 2]}
OPTIMIZER = optax.partition(
    {"heads": optax.adam(0.1), "rest": optax.sgd(0.1)},
    lambda p: {name: "heads" if name == "heads" else "rest" for name in p},
)
MESH = (2, 2, 2)


def make(workdir, *, save_every=1, keep=3, fingerprint=FINGERPRINT) -> Checkpoints:
    return Checkpoints(workdir, save_every=save_every, keep=keep, fingerprint=fingerprint)


def make_state(sizes=MESH, seed=0):
    def init():
        key = jax.random.key(seed)
        params = {
            "heads": {"projection": {"weight": jax.random.normal(key, (3, 8, 4))}},
            "backbone": {"q": {"weight": jax.random.normal(key, (8, 4)).astype(jnp.bfloat16)}},
        }
        return {"params": params, "opt": OPTIMIZER.init(params), "step": jnp.zeros((), jnp.int32)}

    shardings = param_shardings(make_mesh(*sizes), jax.eval_shape(init))
    return jax.jit(init, out_shardings=shardings)()


def make_data():
    return iter(grain.MapDataset.range(100).shuffle(seed=7).repeat().batch(4).to_iter_dataset())


@jax.jit
def more(state):
    return jax.tree.map(lambda x: x + jnp.ones((), x.dtype), state)


def assert_same(left, right):
    assert jax.tree.structure(left) == jax.tree.structure(right)
    for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


def test_state_and_data_come_back(tmp_path):
    state, data = make_state(), make_data()
    for _ in range(3):
        next(data)
    with make(tmp_path) as checkpoints:
        assert checkpoints.latest is None
        assert checkpoints.save(3, state, data)
    expected = [next(data) for _ in range(5)]
    again = make_data()
    with make(tmp_path) as checkpoints:
        assert checkpoints.latest == 3
        assert_same(checkpoints.restore(make_state(seed=1), again), state)
    np.testing.assert_array_equal([next(again) for _ in range(5)], expected)


@pytest.mark.parametrize("sizes", [(1, 8, 1), (1, 1, 4), (1, 1, 1)])
def test_restore_onto_another_mesh(tmp_path, sizes):
    state = make_state()
    with make(tmp_path) as checkpoints:
        checkpoints.save(1, state)
        shapes = jax.eval_shape(lambda: make_state((1, 1, 1)))
        wanted = with_shardings(shapes, param_shardings(make_mesh(*sizes), shapes))
        restored = checkpoints.restore(wanted)
    assert_same(restored, state)
    assert [x.sharding for x in jax.tree.leaves(restored)] == [
        x.sharding for x in jax.tree.leaves(wanted)
    ]


def test_donated_buffers_are_saved_as_they_were(tmp_path):
    step = jax.jit(lambda x: x + 1, donate_argnums=0)
    state = jnp.zeros((512, 512))
    with make(tmp_path, keep=9) as checkpoints:
        for i in range(1, 7):
            state = step(state)
            checkpoints.save(i, {"x": state})
            state = step(step(state)) - 2
        for i in range(1, 7):
            restored = checkpoints.restore({"x": state}, step=i)["x"]
            np.testing.assert_array_equal(np.asarray(restored), i)


def test_when_it_saves(tmp_path):
    state = {"x": jnp.zeros(())}
    with make(tmp_path, save_every=2, keep=9) as checkpoints:
        saved = [step for step in range(1, 6) if checkpoints.save(step, state)]
        assert saved == [2, 4]
        assert checkpoints.save(5, state, force=True)
        assert not checkpoints.save(5, more(state), force=True)
        checkpoints.wait()
        assert_same(checkpoints.restore(state), state)


def test_keeps_the_last_and_the_best(tmp_path):
    losses = {1: 3.0, 2: float("nan"), 3: 1.0, 4: None, 5: 2.0, 6: None, 7: 4.0}
    state = {"x": jnp.zeros(())}
    with make(tmp_path, keep=2) as checkpoints:
        for step, loss in losses.items():
            checkpoints.save(step, state, loss=loss)
        checkpoints.wait()
        assert (checkpoints.best, checkpoints.latest) == (3, 7)
    assert steps_on_disk(tmp_path) == [3, 6, 7]
    with make(tmp_path, keep=2) as checkpoints:
        assert checkpoints.best == 3
        checkpoints.save(8, state)
    assert steps_on_disk(tmp_path) == [3, 7, 8]


def test_the_best_so_far(tmp_path):
    state = {"x": jnp.zeros(())}
    with make(tmp_path) as checkpoints:
        assert checkpoints.is_best(2.0)
        assert not checkpoints.is_best(None)
        checkpoints.save(1, state, loss=1.0)
        assert [checkpoints.is_best(loss) for loss in (2.0, 1.0, 0.9, None)] == [0, 0, 1, 0]
        checkpoints.save(2, state)
        assert checkpoints.is_best(0.9)
    with make(tmp_path) as checkpoints:
        assert [checkpoints.is_best(loss) for loss in (1.0, 0.9)] == [False, True]


def test_no_loss_no_best(tmp_path):
    with make(tmp_path, keep=2) as checkpoints:
        for step in range(1, 5):
            checkpoints.save(step, {"x": jnp.zeros(())})
        checkpoints.wait()
        assert checkpoints.best is None
    assert steps_on_disk(tmp_path) == [3, 4]


def steps_on_disk(workdir) -> list[int]:
    return sorted(int(folder.name) for folder in (workdir / "checkpoints").iterdir())


def test_params_alone(tmp_path):
    state = make_state()
    with make(tmp_path) as checkpoints:
        checkpoints.save(1, more(state))
        checkpoints.save(2, state)
    mesh = make_mesh(1, 2, 2)
    step, params = read_params(tmp_path, mesh)
    assert step == 2
    assert_same(params, state["params"])
    assert params["heads"]["projection"]["weight"].sharding.mesh == mesh
    assert_same(read_params(tmp_path, mesh, 1)[1], more(state)["params"])
    assert "choose one of [1, 2]" in refused(lambda: read_params(tmp_path, mesh, 3))
    assert "holds no checkpoint" in refused(lambda: read_params(tmp_path / "no", mesh))
    assert not (tmp_path / "no").exists()


def refused(call) -> str:
    with pytest.raises(UserError) as error:
        call()
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"num_heads": 5}, "num_heads = 4, this one has 5"),
        ({"lora": {"rank": 0}}, "lora.rank = 8, this one has 0"),
        ({"seeds": [1]}, "seeds = [1, 2], this one has [1]"),
        ({"new": "x"}, "new = None, this one has 'x'"),
    ],
)
def test_folder_of_another_run(tmp_path, change, words):
    with make(tmp_path) as checkpoints:
        checkpoints.save(1, {"x": jnp.zeros(())})
    before = (tmp_path / "run.json").read_bytes()
    message = refused(lambda: make(tmp_path, fingerprint=FINGERPRINT | change))
    assert words in message
    assert "--workdir" in message
    assert (tmp_path / "run.json").read_bytes() == before


def test_folder_of_a_run_without_a_checkpoint(tmp_path):
    """It ended before there was anything to go on from: other settings are welcome."""
    make(tmp_path).close()
    with make(tmp_path, fingerprint={"x": 1}) as checkpoints:
        checkpoints.save(1, {"x": jnp.zeros(())})
    assert json.loads((tmp_path / "run.json").read_text()) == {"x": 1}
    assert "holds a run with" in refused(lambda: make(tmp_path))


def test_folder_of_an_unknown_run(tmp_path):
    (tmp_path / "checkpoints" / "3").mkdir(parents=True)
    assert "unknown run" in refused(lambda: make(tmp_path))
    assert not (tmp_path / "run.json").exists()


def test_folder_that_is_a_file(tmp_path):
    (tmp_path / "file").write_text("")
    assert "cannot write to" in refused(lambda: make(tmp_path / "file"))


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        (
            {"a": jnp.zeros((2, 4)), "b": jnp.zeros(3)},
            "a as float32[2, 3], this run as float32[2, 4]",
        ),
        (
            {"a": jnp.zeros((2, 3)), "b": jnp.zeros(3, jnp.bfloat16)},
            "b as float32[3], this run as bf",
        ),
        ({"a": jnp.zeros((2, 3))}, "b as float32[3], this run as nothing"),
        (
            {"a": jnp.zeros((2, 3)), "b": jnp.zeros(3), "c": {"d": jnp.zeros(1)}},
            "c/d as nothing, this run as float32[1]",
        ),
    ],
)
def test_state_of_another_shape(tmp_path, wanted, words):
    with make(tmp_path) as checkpoints:
        checkpoints.save(1, {"a": jnp.zeros((2, 3)), "b": jnp.zeros(3)})
        assert words in refused(lambda: checkpoints.restore(wanted))


def test_data_of_another_number_of_processes(tmp_path):
    state = {"x": jnp.zeros(())}
    with make(tmp_path) as checkpoints:
        read = make_data()
        next(read)
        checkpoints.save(1, state, read)
        checkpoints.wait()
        folder = tmp_path / "checkpoints" / "1" / "data"
        (folder / "process_0-of-1.json").rename(folder / "process_1-of-2.json")
        data = make_data()
        checkpoints.restore(state, data)
        assert data.get_state() == read.get_state()
        assert data.get_state() != make_data().get_state()


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
        checkpoints.save(1, state, loss=5.0)
        checkpoints.save(2, state, loss=2.0)
        checkpoints.save(3, state, loss=3.0)
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
    """Steps behind `after` that are being written, or were when the process died."""
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    return [name for name in names if "tmp" in name and int(name.partition(".")[0]) > after]
