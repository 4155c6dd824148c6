"""The loss of heads that see their branch: position by position, and from cached hidden states."""

import dataclasses

import jax
import numpy as np
import pytest

from tests.medusa_jax.branch_heads import KINDS, slow_logits
from tests.medusa_jax.objectives.networks import (
    BASE,
    BATCH,
    HEADS,
    M,
    T,
    gradients,
    jitted,
    jitted_hidden,
    labelled,
    parameters,
)
from tests.medusa_jax.objectives.problems import log_softmax


def objective_of(kind, **changes):
    rank = 3 if "markov" in kind else 0
    heads = dataclasses.replace(HEADS, conditioning=kind, markov_rank=rank)
    return dataclasses.replace(BASE, heads=heads, **changes), parameters(heads)


@pytest.mark.parametrize("kind", KINDS)
def test_heads_by_hand(kind):
    """The true tokens from t + 1 to t + k are seen, and the one at t + k + 1 is learned."""
    objective, params = objective_of(kind)
    loss, sums, _ = jitted(objective, params, BATCH)
    hidden_BTD = np.asarray(jitted_hidden(params, BATCH))
    table_VD = params["backbone"]["embed"]["weight"]
    lm_head_VD = params["backbone"]["lm_head"]["weight"]
    total, count = np.zeros(M), np.zeros(M)
    for b, t, k, ahead in labelled():
        branch = table_VD[BATCH["token"][b, t + 1 : ahead]]
        assert len(branch) == k + 1
        logits_V = slow_logits(kind, params["heads"], k, hidden_BTD[b, t], branch, lm_head_VD)
        total[k] -= log_softmax(logits_V)[BATCH["token"][b, ahead]]
        count[k] += 1
    np.testing.assert_allclose(sums["head_loss"], total, rtol=1e-5)
    np.testing.assert_allclose(loss, (0.8 ** np.arange(1, M + 1) * total / count).sum(), rtol=1e-5)


@pytest.mark.parametrize("kind", ["gated_markov", "branch"])
def test_cached_hidden_states_give_the_loss_of_the_sequences(kind):
    objective, params = objective_of(kind, head_labels="distribution")
    streamed = jitted(objective, params, BATCH)
    hidden = np.asarray(jitted_hidden(params, BATCH))
    cached = {
        "hidden": np.stack([np.roll(hidden, -k, axis=1) for k in range(M + 1)], axis=2),
        "next": np.stack([np.roll(BATCH["token"], -j, axis=1) for j in range(1, M + 1)], axis=2),
        "labels": np.asarray(objective.labels(params, BATCH)),
    }
    order = np.random.default_rng(0).permutation(2 * T)
    cached = {
        name: x.reshape(2 * T, *x.shape[2:])[order].reshape(4, T // 2, *x.shape[2:])
        for name, x in cached.items()
    }
    loss, sums, _ = jitted(objective, params, cached)
    np.testing.assert_allclose(loss, streamed[0], rtol=1e-5)
    np.testing.assert_allclose(sums["head_loss"], streamed[1]["head_loss"], rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_every_parameter_of_the_heads_learns(kind):
    objective, params = objective_of(kind)
    grads = gradients(objective, params)
    assert jax.tree.structure(grads["heads"]) == jax.tree.structure(params["heads"])
    assert all(np.abs(np.asarray(x)).max() > 1e-6 for x in jax.tree.leaves(grads["heads"]))
    assert not any(np.asarray(x).any() for x in jax.tree.leaves(grads["backbone"]))
