"""Label shifts and the Medusa-1 loss against loops written from the equation."""

import jax.numpy as jnp
import numpy as np
import pytest

from medusa_jax.losses import IGNORE, medusa1_loss, shift_labels


def test_head_k_is_labelled_with_the_token_at_t_plus_k_plus_1():
    tokens = np.arange(100, 110, dtype=np.int32)
    labels = shift_labels(tokens, np.ones(10, bool), 3)
    for t in range(10):
        for head in (1, 2, 3):
            target = t + head + 1
            assert labels[t, head - 1] == (tokens[target] if target < 10 else IGNORE)


def test_masked_tokens_are_never_labels():
    rng = np.random.default_rng(0)
    tokens, mask = rng.integers(0, 50, 30).astype(np.int32), rng.random(30) < 0.5
    labels = shift_labels(tokens, mask, 4)
    for t in range(30):
        for head in range(4):
            target = t + head + 2
            expected = tokens[target] if target < 30 and mask[target] else IGNORE
            assert labels[t, head] == expected


@pytest.mark.parametrize("length", [0, 1, 2])
def test_short_sequences_have_no_labels(length):
    labels = shift_labels(np.zeros(length, np.int32), np.ones(length, bool), 4)
    assert labels.shape == (length, 4)
    assert (labels == IGNORE).all()


def test_loss_equals_the_weighted_sum_of_mean_cross_entropies():
    rng = np.random.default_rng(1)
    logits = rng.normal(size=(20, 3, 7)) * 3
    labels = rng.integers(0, 7, (20, 3)).astype(np.int32)
    labels[rng.random((20, 3)) < 0.3] = IGNORE
    loss, metrics = medusa1_loss(jnp.asarray(logits, jnp.float32), jnp.asarray(labels), 0.8)
    expected, top1, top5 = 0.0, [], []
    for k in range(3):
        rows = [n for n in range(20) if labels[n, k] != IGNORE]
        probability = np.exp(logits[rows, k])
        probability /= probability.sum(-1, keepdims=True)
        own = probability[np.arange(len(rows)), labels[rows, k]]
        expected += 0.8 ** (k + 1) * -np.log(own).mean()
        rank = (probability > own[:, None]).sum(-1)
        top1.append((rank < 1).mean())
        top5.append((rank < 5).mean())
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    np.testing.assert_allclose(metrics["top1"], top1, rtol=1e-6)
    np.testing.assert_allclose(metrics["top5"], top5, rtol=1e-6)


def test_a_head_without_labels_adds_nothing():
    logits = jnp.zeros((4, 2, 5))
    labels = jnp.asarray([[1, IGNORE]] * 4, jnp.int32)
    loss, metrics = medusa1_loss(logits, labels, 0.5)
    np.testing.assert_allclose(loss, 0.5 * np.log(5), rtol=1e-6)
    assert metrics["loss"][1] == 0
