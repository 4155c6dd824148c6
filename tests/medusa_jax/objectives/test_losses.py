"""Labels and losses against loops over single positions."""

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

from medusa_jax.objectives.losses import (
    IGNORE,
    OUTSIDE,
    TOP,
    count_labels,
    divergence_sum,
    followed_nodes,
    head_sums,
    shift_labels,
)
from medusa_jax.tree.build import build_tree
from medusa_jax.tree.presets import load_tree
from tests.medusa_jax.packed import quick_jit

TREE_PATHS = [[0], [1], [2], [0, 0], [0, 1], [1, 0], [2, 2], [0, 0, 0], [0, 1, 0], [1, 0, 2]]


jitted_sums = quick_jit(head_sums)
jitted_labels = quick_jit(shift_labels, static_argnums=3)


@st.composite
def packed_rows(draw):
    """(token, is_label, segment), each [2, T]; documents of any length, and padding behind them."""
    length = draw(st.sampled_from([1, 6, 13]))
    segment = np.zeros((2, length), np.int32)
    for row in segment:
        sizes = draw(st.lists(st.integers(1, 6), max_size=5))
        documents = np.repeat(np.arange(1, len(sizes) + 1), sizes)[:length]
        row[: len(documents)] = documents
    flags = st.lists(st.booleans(), min_size=2 * length, max_size=2 * length)
    is_label = np.array(draw(flags)).reshape(2, length)
    return np.arange(2 * length, dtype=np.int32).reshape(2, length), is_label, segment


@hypothesis.settings(max_examples=40, deadline=None)
@hypothesis.given(packed_rows(), st.sampled_from([0, 1, 5]))
def test_labels_of_every_position_and_head(rows, num_heads):
    token, is_label, segment = rows
    labels = np.asarray(jitted_labels(token, is_label, segment, num_heads))
    assert labels.dtype == np.int32
    assert labels.shape == (*token.shape, num_heads + 1)
    length = token.shape[1]
    for b, t, k in np.ndindex(labels.shape):
        ahead = t + k + 1  # k = 0 is the base head, which predicts the next token
        is_there = ahead < length and is_label[b, ahead] and segment[b, t] > 0
        wanted = token[b, ahead] if is_there and segment[b, ahead] == segment[b, t] else IGNORE
        assert labels[b, t, k] == wanted


def test_an_empty_row_has_no_labels():
    empty = np.zeros((1, 0), np.int32)
    assert shift_labels(empty, empty.astype(bool), empty, 3).shape == (1, 0, 4)


def test_labels_are_counted_per_head():
    labels = np.full((2, 3, 4), IGNORE, np.int32)
    labels[:, :, 1] = OUTSIDE
    labels[0, :, 2] = [0, 5, OUTSIDE]
    labels[:, :, 3] = 7
    count_M = count_labels(jnp.asarray(labels))
    assert count_M.dtype == jnp.float32
    np.testing.assert_array_equal(count_M, [1, 1, 2, 6])  # 1: nothing is ever divided by zero


def random_problem(shape, V, seed=0):
    """Logits of a few values only, so that there are ties, and labels with and without one."""
    rng = np.random.default_rng(seed)
    logits = rng.integers(-4, 5, (*shape, V)).astype(np.float32) / 2
    labels = rng.integers(0, V, shape).astype(np.int32)
    labels[rng.random(shape) < 0.2] = IGNORE
    labels[rng.random(shape) < 0.1] = OUTSIDE
    return logits, labels, rng.normal(size=logits.shape).astype(np.float32)


def log_softmax(x):
    x = np.asarray(x, np.float64)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("shape", [(3, 5, 3), (11, 3)])
def test_head_sums(shape, soft):
    logits, labels, teacher = random_problem(shape, 9)
    out = jitted_sums(logits, labels, teacher=teacher if soft else None)
    loss, hits = np.zeros(shape[-1]), np.zeros((TOP, shape[-1]))
    for where in np.ndindex(shape):
        label = labels[where]
        if label < 0:
            continue
        target = np.exp(log_softmax(teacher[where])) if soft else np.eye(9)[label]
        loss[where[-1]] -= target @ log_softmax(logits[where])
        better = sum(other > logits[where][label] for other in logits[where])
        hits[better:, where[-1]] += 1
    np.testing.assert_allclose(out["loss"], loss, rtol=1e-5)
    np.testing.assert_array_equal(out["hits"], hits)
    num_labels = (labels != IGNORE).reshape(-1, shape[-1]).sum(0)
    np.testing.assert_array_equal(out["labels"], num_labels)
    assert {x.dtype for x in jax.tree.leaves(out)} == {jnp.dtype("float32")}
    assert "accepted" not in out


def test_accepted_nodes_are_those_whose_whole_path_has_the_labels_ranks():
    logits, labels, _ = random_problem((4, 60, 3), 5)
    total = 0
    for b, t in np.ndindex(4, 60):
        own = [logits[b, t, k, max(label, 0)] for k, label in enumerate(labels[b, t])]
        ranks = [
            (logits[b, t, k] > own[k]).sum() if label >= 0 else -1
            for k, label in enumerate(labels[b, t])
        ]
        total += sum(path == ranks[: len(path)] for path in TREE_PATHS)
    assert total > 50  # else the test says little
    tree = build_tree(TREE_PATHS)
    assert jitted_sums(logits, labels, tree=tree)["accepted"] == total


def test_followed_nodes_of_real_trees():
    rng = np.random.default_rng(0)
    rank = np.minimum(rng.geometric(0.5, (300, 5)) - 1, 9).astype(np.int32)
    for name in ("mc_sim_7b_63", "chain:3", "chain:0"):
        tree = load_tree(name)
        paths = {(): 0}
        for node in range(1, tree.R):
            ancestors = np.flatnonzero(tree.mask_RR[node])[1:]
            paths[tuple(int(tree.rank_R[n]) for n in ancestors)] = len(ancestors)
        wanted = [max(paths.get(tuple(row[:d]), 0) for d in range(6)) for row in rank.tolist()]
        np.testing.assert_array_equal(quick_jit(followed_nodes)(tree, rank), wanted)


def test_divergence():
    logits, labels, teacher = random_problem((3, 8), 7)
    target, model = log_softmax(teacher), log_softmax(logits)
    wanted = (np.exp(target) * (target - model)).sum(-1)[labels != IGNORE].sum()
    out = quick_jit(divergence_sum)(teacher, logits, labels)
    np.testing.assert_allclose(out, wanted, rtol=1e-5)


def test_no_divergence_and_no_gradient_where_model_and_teacher_agree():
    logits, labels, _ = random_problem((3, 8), 7)
    function = quick_jit(jax.value_and_grad(divergence_sum, argnums=1))
    value, gradient = function(logits + 3, logits, labels)
    np.testing.assert_allclose(value, 0.0, atol=1e-5)
    np.testing.assert_allclose(gradient, 0.0, atol=1e-6)
