"""The optimizer against AdamW written out in NumPy, and its schedules against their formulas."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from train.optimizer import heads_warmup, learning_rate_schedule, make_optimizer

RATE, DECAY, STEPS, WARMUP = 1e-2, 0.1, 12, 3
MATRICES = [("heads", "blocks", "weight"), ("backbone", "q", "weight"), ("lora", "q", "a")]


def parameters():
    rng = np.random.default_rng(0)
    shapes = {
        "heads": {"blocks": {"weight": (2, 1, 4, 4), "bias": (2, 1, 4)}},
        "backbone": {"q": {"weight": (3, 4), "bias": (3,)}, "norm": {"scale": (4,)}},
        "lora": {"q": {"a": (2, 4)}},
    }
    draw = lambda shape: rng.normal(size=shape).astype(np.float32)  # noqa: E731
    return jax.tree.map(draw, shapes, is_leaf=lambda x: isinstance(x, tuple))


def optimizer(**changes):
    options = {
        "steps": STEPS,
        "learning_rate": RATE,
        "head_lr_multiplier": 4.0,
        "warmup_steps": WARMUP,
        "weight_decay": 0.0,
        "grad_clip": 1e6,
        "moments": "float32",
    }
    return make_optimizer(**(options | changes))


def run(made, params, gradients):
    """The parameters after every step, and the last state."""
    with jax.numpy_dtype_promotion("standard"):
        state = made.init(params)
        update = jax.jit(made.update)
        history = []
        for gradient in gradients:
            updates, state = update(gradient, state, params)
            params = jax.tree.map(np.asarray, optax.apply_updates(params, updates))
            history.append(params)
    return history, state


def flat(tree):
    return {tuple(k.key for k in path): x for path, x in jax.tree.leaves_with_path(tree)}


def moments(state, name):
    """Leaves of all of Adam's moments of one name."""
    found = jax.tree.leaves_with_path(state)
    return [x for path, x in found if any(getattr(k, "name", None) == name for k in path)]


def test_learning_rate_rises_and_falls():
    schedule = learning_rate_schedule(RATE, WARMUP, STEPS)
    got = [float(schedule(step)) for step in range(STEPS + 3)]
    up = [RATE * step / WARMUP for step in range(WARMUP)]
    fall = STEPS - WARMUP
    down = [RATE * (1 + math.cos(math.pi * step / fall)) / 2 for step in range(fall + 1)]
    np.testing.assert_allclose(got, [*up, *down, 0, 0], rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize(("warmup", "steps"), [(0, 5), (5, 5), (8, 5), (0, 1)])
def test_learning_rate_of_short_runs(warmup, steps):
    schedule = learning_rate_schedule(RATE, warmup, steps)
    got = [float(schedule(step)) for step in range(steps)]
    assert all(0 <= rate <= RATE * 1.0001 for rate in got)
    assert got[0] == pytest.approx(RATE if warmup == 0 else 0.0)
    assert sum(got) > 0


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("constant", [0.2, 0.2, 0.2, 0.2, 0.2]),
        ("linear", [0.0, 0.05, 0.1, 0.2, 0.2]),
        ("sine", [0.0, 0.2 * math.sin(math.pi / 8), 0.1 * math.sqrt(2), 0.2, 0.2]),
    ],
)
def test_weight_of_the_heads(kind, expected):
    schedule = jax.jit(heads_warmup(kind, 0.2, 8))
    steps = [jnp.asarray(step, jnp.int32) for step in (0, 2, 4, 8, 100)]
    np.testing.assert_allclose([schedule(step) for step in steps], expected, rtol=1e-6, atol=1e-8)


def test_a_warmup_of_no_steps_is_at_its_end_from_the_second_on():
    assert heads_warmup("linear", 0.2, 0)(1) == pytest.approx(0.2)


def test_first_steps_have_the_size_of_their_groups_rate():
    """Adam's first step is the rate times the sign of the gradient; biases are no exception."""
    params = parameters()
    gradient = jax.tree.map(lambda x: np.sign(x + 1e-9) * 0.5, params)
    after = run(optimizer(warmup_steps=0), params, [gradient])[0][0]
    for path, x in flat(params).items():
        rate = RATE * (4 if path[0] == "heads" else 1)
        np.testing.assert_allclose(
            x - flat(after)[path], rate * np.sign(x), rtol=1e-3, err_msg=path
        )


@pytest.mark.parametrize("clip", [1e6, 1.0])
def test_steps_of_adamw(clip):
    """Clipped by the norm of all gradients together; only matrices decay, not the heads' biases."""
    params, rng = parameters(), np.random.default_rng(1)
    gradients = [
        jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), params)
        for _ in range(6)
    ]
    history, _ = run(optimizer(weight_decay=DECAY, grad_clip=clip), params, gradients)
    p = {path: np.float64(x) for path, x in flat(params).items()}
    m, v = ({path: np.zeros(x.shape) for path, x in p.items()} for _ in range(2))
    for step, gradient in enumerate(gradients):
        norm = math.sqrt(
            sum(float((x.astype(np.float64) ** 2).sum()) for x in flat(gradient).values())
        )
        assert norm > 2
        fall = (1 + math.cos(math.pi * (step - WARMUP) / (STEPS - WARMUP))) / 2
        rate = RATE * (step / WARMUP if step < WARMUP else fall)
        for path, g in flat(gradient).items():
            g = np.float64(g) * min(1, clip / norm)
            m[path] = 0.9 * m[path] + 0.1 * g
            v[path] = 0.999 * v[path] + 0.001 * g**2
            mean, square = m[path] / (1 - 0.9 ** (step + 1)), v[path] / (1 - 0.999 ** (step + 1))
            change = mean / (np.sqrt(square) + 1e-8) + (DECAY * p[path] if path in MATRICES else 0)
            p[path] = p[path] - rate * (4 if path[0] == "heads" else 1) * change
        for path, x in flat(history[step]).items():
            np.testing.assert_allclose(x, p[path], rtol=1e-4, atol=1e-6, err_msg=str(path))


def test_the_heads_alone():
    params = {"heads": parameters()["heads"]}
    after = run(optimizer(warmup_steps=0), params, [params])[0][0]
    for path, x in flat(params).items():
        np.testing.assert_allclose(abs(x - flat(after)[path]), 4 * RATE, rtol=1e-3)


def test_bfloat16_moments():
    params = parameters()
    gradients = [params] * 3
    wanted, state32 = run(optimizer(), params, gradients)
    got, state = run(optimizer(moments="bfloat16"), params, gradients)
    assert {x.dtype for x in moments(state, "mu")} == {jnp.dtype("bfloat16")}
    assert {x.dtype for x in moments(state, "nu") + moments(state32, "mu")} == {
        jnp.dtype("float32")
    }
    assert len(moments(state, "mu")) == len(jax.tree.leaves(params))
    for path, x in flat(got[-1]).items():
        assert x.dtype == np.float32
        change = flat(wanted[-1])[path] - flat(params)[path]
        np.testing.assert_allclose(x - flat(params)[path], change, rtol=0.02, atol=1e-6)


def test_factored_moments_are_rows_and_columns():
    params = {"heads": {"projection": {"weight": np.ones((2, 256, 128), np.float32)}}}
    made = optimizer(moments="factored", warmup_steps=0)
    (after,), state = run(made, params, [jax.tree.map(lambda x: 0.5 * x, params)])
    weight = after["heads"]["projection"]["weight"]
    np.testing.assert_allclose(weight, 1 - 4 * RATE, rtol=1e-3)
    assert max(x.size for x in jax.tree.leaves(state)) == 2 * 256  # a whole moment: 65536
