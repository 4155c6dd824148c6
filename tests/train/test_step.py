"""Steps: parts add up to their batch, and a state goes on where it was, bit for bit."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medusa_jax.config import MedusaConfig
from medusa_jax.objectives.labels import IGNORE
from medusa_jax.objectives.metrics import metrics
from medusa_jax.objectives.objective import Objective
from medusa_jax.tree.build import build_tree
from tests.medusa_jax.nn.test_product import products
from tests.medusa_jax.packed import (
    SMALL,
    packed_batch,
    quick_jit,
    random_backbone,
    random_heads,
    random_lora,
)
from train.optimizer import heads_warmup, make_optimizer
from train.step import Step

HEADS = MedusaConfig(num_heads=2, hidden_size=16, vocab_size=24)
TREE = build_tree([[0], [1], [0, 0]])


@pytest.fixture(autouse=True)
def _optax_promotes():
    with jax.numpy_dtype_promotion("standard"):
        yield


@functools.cache
def make_step(kind, accumulate=1, dropout=0.0):
    objective = Objective(SMALL, HEADS, kind, lora_scale=0.5, lora_dropout=dropout, time_block=16)
    optimizer = make_optimizer(
        steps=20,
        learning_rate=1e-2,
        head_lr_multiplier=4.0,
        warmup_steps=0,
        weight_decay=0.1,
        grad_clip=1.0,
        moments="float32",
    )
    return Step(objective, optimizer, heads_warmup("linear", 0.2, 4), accumulate, seed=3)


@functools.partial(quick_jit, static_argnums=0)
def update(step, state, frozen, batch):
    return step.update(state, frozen, batch, TREE)


def start(step, trained):
    return jax.tree.map(jnp.asarray, step.init(trained))


@functools.cache
def parameters(kind):
    """What is trained, and what is not."""
    backbone, heads = random_backbone(SMALL), random_heads(HEADS)
    if kind == "medusa2":
        return {"heads": heads, "backbone": backbone}, {}
    trained = {"heads": heads} | ({} if kind == "medusa1" else {"lora": random_lora(backbone)})
    return trained, {"backbone": backbone}


def batch(seed):
    return packed_batch(np.random.default_rng(seed), rows=8, length=16)


def uneven_batch():
    """Rows with many labels and rows with few; the first of every four has none."""
    out = batch(0)
    rows = np.arange(8)
    out["is_label"] &= ((rows % 4 != 0) & (rows != 5))[:, None] | (np.arange(16) < 3)[None]
    out["segment"][rows % 4 == 0] = 0
    return out


def run(step, state, frozen, batches):
    reports = []
    for data in batches:
        state, report = update(step, state, frozen, data)
        reports.append(report)
    return jax.device_get(state), jax.device_get(reports)


def assert_identical(got, wanted):
    jax.tree.map(np.testing.assert_array_equal, got, wanted)


@pytest.mark.parametrize("kind", ["medusa2", "self_distill"])
def test_parts_of_unequal_numbers_of_labels_add_up_to_the_batch(kind):
    trained, frozen = parameters(kind)
    data = uneven_batch()
    results = []
    for accumulate in (1, 4):
        step = make_step(kind, accumulate)
        labels = np.asarray(step.objective.labels(trained | frozen, data))
        counts = (labels.reshape(2, 4, -1) != IGNORE).sum((0, 2))
        assert counts.min() == 0 < counts.max()  # one part has no label at all
        state = start(step, trained) | {"step": jnp.asarray(2, jnp.int32)}
        results.append(update(step, state, frozen, data))
    (one, report1), (four, report4) = results
    norms = {name for name in report1 if name.startswith("grad_norm/")}
    assert norms == {f"grad_norm/{name}" for name in trained}
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-6), report4, report1)
    # Adam's first step hides the gradients' size; the moments show it.
    for a, b in zip(jax.tree.leaves(four["opt"]), jax.tree.leaves(one["opt"]), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)


def test_reported_loss_is_made_of_the_reported_parts():
    trained, frozen = parameters("medusa2")
    step = make_step("medusa2")
    state, (_, report) = run(step, start(step, trained), frozen, [batch(0), batch(1)])
    assert state["step"] == 2
    np.testing.assert_allclose(report["heads_coef"], 0.05, rtol=1e-6)  # a quarter of the ramp
    heads = (np.array([0.8, 0.64]) * report["head_loss"]).sum()
    np.testing.assert_allclose(report["loss"], report["lm_loss"] + 0.05 * heads, rtol=1e-5)


def test_training_lowers_the_loss():
    trained, frozen = parameters("medusa2")
    step = make_step("medusa2")
    _, reports = run(step, start(step, trained), frozen, [batch(0)] * 12)
    assert reports[-1]["lm_loss"] < 0.8 * reports[0]["lm_loss"]
    assert (reports[-1]["head_loss"] < 0.95 * reports[0]["head_loss"]).all()


def test_a_restored_state_resumes_bit_for_bit():
    """Dropout, schedules and moments included: nothing lives outside of the state."""
    trained, frozen = parameters("self_distill")
    step = make_step("self_distill", 4, dropout=0.3)
    batches = [batch(seed) for seed in range(4)]
    wanted_state, wanted = run(step, start(step, trained), frozen, batches)
    middle, first = run(step, start(step, trained), frozen, batches[:2])
    stored = jax.tree.map(lambda x: np.array(x, copy=True), middle)
    state, last = run(step, jax.tree.map(jnp.asarray, stored), frozen, batches[2:])
    assert_identical(first + last, wanted)
    assert_identical(state, wanted_state)


def test_dropout_differs_between_steps_and_is_all_that_does():
    trained, frozen = parameters("self_distill")

    def divergences(step):
        state = start(step, trained)
        later = state | {"step": jnp.asarray(1, jnp.int32)}
        return [float(update(step, s, frozen, batch(0))[1]["kl"]) for s in (state, state, later)]

    one, same, other = divergences(make_step("self_distill", 4, dropout=0.3))
    assert one == same != other
    assert len(set(divergences(make_step("self_distill", 4)))) == 1


def test_parts_of_a_batch_do_not_share_their_dropout():
    """Of four equal parts, the first alone would report what all do, if their masks were equal."""
    trained, frozen = parameters("self_distill")
    rows = {name: np.repeat(x[:2], 4, axis=0) for name, x in batch(0).items()}
    first = rows | {"is_label": rows["is_label"] & (np.arange(8) % 4 == 0)[:, None]}
    differences = []
    for dropout in (0.0, 0.3):
        step = make_step("self_distill", 4, dropout)
        state = start(step, trained)
        kls = [update(step, state, frozen, data)[1]["kl"] for data in (rows, first)]
        differences.append(abs(float(kls[0] - kls[1])))
    assert differences[0] < 1e-5 < 1e-3 < differences[1]


def test_steps_compile_once():
    trained, frozen = parameters("medusa1")
    step = make_step("medusa1")
    jitted = quick_jit(step.update, donate_argnums=0)
    state = jax.tree.map(jnp.copy, start(step, trained))
    for seed in range(3):
        state, _ = jitted(state, frozen, batch(seed), TREE)
    assert jitted._cache_size() == 1


def test_evaluation_sums_over_batches():
    """Sums of two halves are those of the whole, without dropout."""
    trained, frozen = parameters("self_distill")
    halves = []
    for number in (0, 1):
        half = batch(0)
        half["is_label"] &= (np.arange(8) % 2 == number)[:, None]
        halves.append(half)
    evaluate = quick_jit(make_step("self_distill", dropout=0.3).evaluate)
    first, second = (evaluate(trained | frozen, half, TREE) for half in halves)
    sums, count = jax.tree.map(lambda a, b: a + b, first, second)
    step = make_step("self_distill")
    wanted = update(step, start(step, trained), frozen, batch(0))[1]
    for name, value in metrics(sums, count).items():
        np.testing.assert_allclose(value, wanted[name], rtol=1e-5, err_msg=name)


@pytest.mark.parametrize("kind", ["medusa1", "medusa2"])
def test_a_step_that_is_not_finite_changes_nothing(kind):
    trained, frozen = parameters(kind)
    step = make_step(kind)
    state, _ = run(step, start(step, trained), frozen, [batch(0)])
    poisoned = jax.tree.map(jnp.asarray, state)
    weight = poisoned["params"]["heads"]["blocks"]["weight"]
    poisoned["params"]["heads"]["blocks"]["weight"] = weight.at[0, 0, 0, 0].set(jnp.inf)
    before = jax.device_get(poisoned)
    after, report = update(step, poisoned, frozen, batch(1))
    assert not np.isfinite(report["loss"])
    assert_identical(jax.device_get(after), before)


def test_a_gradient_that_is_not_finite_changes_nothing_though_the_loss_is():
    """Frozen rows of the LM head so large that the gradient's norm overflows, and no logit does."""
    trained, frozen = parameters("medusa1")
    lm_head = {"weight": frozen["backbone"]["lm_head"]["weight"] * np.float32(1e25)}
    frozen = {"backbone": frozen["backbone"] | {"lm_head": lm_head}}
    step = make_step("medusa1")
    state, _ = run(step, start(step, trained), parameters("medusa1")[1], [batch(0)])
    after, report = update(step, jax.tree.map(jnp.asarray, state), frozen, batch(1))
    assert np.isfinite(report["loss"])
    assert not np.isfinite(report["grad_norm/heads"])
    assert_identical(jax.device_get(after), state)


def test_evaluation_counts_the_labels_that_heads_can_learn():
    """With a draft vocabulary: a label outside of it is a miss, but no part of a mean loss."""
    heads = dataclasses.replace(HEADS, vocab_size=9, draft_vocab=True)
    objective = dataclasses.replace(make_step("medusa2").objective, heads=heads)
    step = dataclasses.replace(make_step("medusa2"), objective=objective)
    token_map = np.arange(0, 18, 2, dtype=np.int32)
    params = {"backbone": random_backbone(SMALL), "heads": random_heads(heads)}
    data = batch(0)
    sums, count_J = quick_jit(step.evaluate)(params | {"token_map": token_map}, data, TREE)
    whole = np.asarray(objective.labels({}, data))
    in_draft = np.isin(whole[..., 1:], token_map).sum((0, 1))
    np.testing.assert_array_equal(count_J, [(whole[..., 0] != IGNORE).sum(), *in_draft])
    np.testing.assert_array_equal(sums["labels"], (whole[..., 1:] != IGNORE).sum((0, 1)))
    assert (in_draft < sums["labels"]).all()


def test_evaluation_of_parts_is_that_of_the_batch():
    trained, frozen = parameters("medusa2")
    results = [
        quick_jit(make_step("medusa2", accumulate).evaluate)(trained | frozen, batch(0), TREE)
        for accumulate in (1, 4)
    ]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), *results)


def test_what_is_trained_is_float32():
    """Gradients, and their sums over devices and parts, have its dtype."""
    trained, _ = parameters("medusa1")
    half = jax.tree.map(lambda x: jnp.asarray(x, jnp.bfloat16), trained)
    with pytest.raises(ValueError, match="bfloat16, not float32"):
        make_step("medusa1").init(half)


@pytest.mark.parametrize("kind", ["medusa2", "self_distill"])
def test_bfloat16_steps_multiply_nothing_else(kind):
    """Backwards too: a float32 product is several times slower on a GPU."""
    trained, frozen = parameters(kind)
    step = make_step(kind, accumulate=4, dropout=0.3)
    objective = dataclasses.replace(step.objective, dtype="bfloat16", remat=True)
    step = dataclasses.replace(step, objective=objective)
    program = jax.make_jaxpr(step.update)(start(step, trained), frozen, batch(0), TREE)
    found = list(products(program.jaxpr))
    assert len(found) > 20
    assert set(found) == {("bfloat16", "bfloat16")}
