"""Tests train/checkpoints.py: what is restored, what is kept, and what is refused."""

import math

import grain
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from medusa_jax.mesh import make_mesh
from medusa_jax.sharding import param_shardings, with_shardings
from tests.train.saved_states import assert_same, make, refused, steps_on_disk
from train.checkpoints import read_params

OPTIMIZER = optax.partition(
    {"heads": optax.adam(0.1), "rest": optax.sgd(0.1)},
    lambda p: {name: "heads" if name == "heads" else "rest" for name in p},
)
MESH = (2, 2, 2)


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


def test_state_and_data_come_back(tmp_path):
    state, data, again = make_state(), make_data(), make_data()
    for _ in range(3):
        next(data)
    with make(tmp_path) as checkpoints:
        assert checkpoints.latest is None
        checkpoints.save(3, state, data)
    expected = [next(data) for _ in range(5)]
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
            checkpoints.save(i, {"params": {"x": state}})
            state = step(step(state)) - 2
    for i in range(1, 7):
        restored = read_params(tmp_path, make_mesh(1, 1, 1), i)[1]["x"]
        np.testing.assert_array_equal(np.asarray(restored), i)


def test_when_it_saves(tmp_path):
    state = {"x": jnp.zeros(())}
    with make(tmp_path, save_every=2, keep=9) as checkpoints:
        for step in range(1, 6):
            checkpoints.save(step, state)
        assert checkpoints.latest == 4
        checkpoints.save(5, state, force=True)
        checkpoints.save(5, more(state), force=True)
        checkpoints.wait()
        assert_same(checkpoints.restore(state), state)
    assert steps_on_disk(tmp_path) == [2, 4, 5]


def test_keeps_the_last_and_the_best(tmp_path):
    scores = {1: 1.0, 2: float("nan"), 3: 3.0, 4: None, 5: 2.0, 6: None, 7: -4.0}
    state = {"x": jnp.zeros(())}
    with make(tmp_path, keep=2) as checkpoints:
        for step, score in scores.items():
            checkpoints.save(step, state, score=score)
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
        assert checkpoints.is_best(-2.0)
        assert not checkpoints.is_best(None)
        checkpoints.save(1, state, score=2.0)
        assert [checkpoints.is_best(score) for score in (1.0, 2.0, 2.1, None)] == [0, 0, 1, 0]
        checkpoints.save(2, state)
        assert checkpoints.is_best(2.1)
    with make(tmp_path) as checkpoints:
        assert [checkpoints.is_best(score) for score in (2.0, 2.1)] == [False, True]


@pytest.mark.parametrize("scores", [[math.nan], [math.nan, 1.0, 2.0], [2.0, math.nan, 1.0]])
def test_a_score_that_is_not_a_number_is_never_the_best(tmp_path, scores):
    state = {"x": jnp.zeros(())}
    for step, score in enumerate(scores):
        numbers = [x for x in scores[: step + 1] if not math.isnan(x)]
        best = scores.index(max(numbers)) if numbers else None
        with make(tmp_path, keep=2) as checkpoints:  # the run is resumed for every step
            if math.isnan(score):
                assert not checkpoints.is_best(score)
            checkpoints.save(step, state, score=score)
            checkpoints.wait()
            assert checkpoints.best == best
        with make(tmp_path, keep=2) as checkpoints:
            assert checkpoints.best == best
            assert checkpoints.is_best(2.5)


def test_notes_stay_with_their_step_and_make_it_no_better(tmp_path):
    state = {"x": jnp.zeros(())}
    with make(tmp_path) as checkpoints:
        checkpoints.save(1, state, score=-0.5, notes={"reference": 1.5})
        checkpoints.save(2, state, notes={"reference": 2.5})
        checkpoints.save(3, state)
    with make(tmp_path) as checkpoints:
        assert checkpoints.best == 1
        assert [checkpoints.metrics(step) for step in (1, 2, 3)] == [
            {"score": -0.5, "reference": 1.5},
            {"reference": 2.5},
            {},
        ]


def test_no_score_no_best(tmp_path):
    with make(tmp_path, keep=2) as checkpoints:
        for step in range(1, 5):
            checkpoints.save(step, {"x": jnp.zeros(())})
        checkpoints.wait()
        assert checkpoints.best is None
    assert steps_on_disk(tmp_path) == [3, 4]


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
        read, data = make_data(), make_data()
        next(read)
        checkpoints.save(1, state, read)
        checkpoints.wait()
        folder = tmp_path / "checkpoints" / "1" / "data"
        (folder / "process_0-of-1.json").rename(folder / "process_1-of-2.json")
        checkpoints.restore(state, data)
        assert data.get_state() == read.get_state()
        assert data.get_state() != make_data().get_state()
