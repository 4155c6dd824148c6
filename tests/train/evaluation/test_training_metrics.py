"""What training reports of held-out data is what `train.evaluate` says of the same data."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from medusa_jax.objectives.metrics import metrics
from medusa_jax.objectives.objective import Objective
from tests.medusa_jax.packed import quick_jit
from tests.train.evaluation.samples import TREE, conversations, lm_with
from train.data import hidden_states
from train.evaluation.scores import score
from train.step import Step

WIDTH = 160


def packed(examples):
    """Several conversations per row, as training has them."""
    rows = [[examples[2], examples[3]], [examples[4], examples[1], examples[0]]]
    names = {"token": np.int32, "is_label": bool, "segment": np.int32, "position": np.int32}
    batch = {name: np.zeros((len(rows), WIDTH), dtype) for name, dtype in names.items()}
    for row, documents in enumerate(rows):
        start = 0
        for number, document in enumerate(documents, 1):
            where = row, slice(start, start + len(document.token_T))
            batch["token"][where] = document.token_T
            batch["is_label"][where] = document.is_label_T
            batch["segment"][where] = number
            batch["position"][where] = np.arange(len(document.token_T))
            start = where[1].stop
    return batch


def held_out(lm, kind, batch):
    """The figures that `train.loop` logs of a batch, and the labels that they are means over."""
    objective = Objective(lm.config, lm.heads_config, kind, time_block=64)
    step = Step(objective, optax.identity(), optax.constant_schedule(1.0))
    params = {"backbone": lm.params, "heads": dict(lm.heads_params)}
    if "token_map" in params["heads"]:
        params["token_map"] = params["heads"].pop("token_map")
    sums, count_J = quick_jit(step.evaluate)(params, batch, TREE)
    return jax.device_get(metrics(sums, count_J)), count_J


def assert_same(report, wanted, rtol):
    np.testing.assert_allclose(report["accepted"], wanted["expected_tokens_per_step"], rtol=rtol)
    for name in ("head_loss", *(f"head_top{k}" for k in range(1, 6))):
        np.testing.assert_allclose(report[name], wanted[name], rtol=rtol, err_msg=name)


@pytest.mark.parametrize("kind", ["shared", "draft"])
def test_packed_sequences(kind):
    lm, examples = lm_with(kind), conversations()
    report, count_J = held_out(lm, "medusa2", packed(examples))
    scores = score(lm, TREE, examples, lambda _: None)
    assert count_J[0] == scores.num_tokens
    np.testing.assert_array_equal(count_J[1:], scores.covered_M)
    assert_same(report, scores.metrics(), rtol=1e-5)
    np.testing.assert_allclose(report["lm_loss"], scores.metrics()["lm_loss"], rtol=1e-5)
    assert report["accepted"] > 1.05


def test_cached_hidden_states(tmp_path):
    """Positions that the base head alone has a label for are roots too."""
    lm, examples = lm_with("draft"), conversations()
    states = hidden_states.compute(lm, examples, 4, tmp_path, "test")
    whole = states.batch(np.arange(len(states.used))[None], 0)
    report, count_J = held_out(lm, "medusa1", jax.tree.map(jnp.asarray, whole))
    scores = score(lm, TREE, examples, lambda _: None)
    assert count_J[0] == scores.num_tokens
    # Stored in float16: a rank may differ where two logits are nearly equal.
    assert_same(report, scores.metrics(), rtol=0.02)
