"""Lossless sampling: the same tokens with any draft, and the base model's distribution."""

import dataclasses
import itertools

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from medusa_jax.decoding.drafting.draft import root_draft
from medusa_jax.decoding.noise import gumbel
from medusa_jax.decoding.rules.filters import Filters, filtered
from medusa_jax.decoding.rules.lossless import Lossless, LosslessNumbers
from medusa_jax.tree.build import build_tree
from tests.medusa_jax.decoding.rules.judging import (
    V,
    assert_accepted,
    draft_of,
    numbered,
    random_case,
    random_paths,
    request_of,
)
from tests.medusa_jax.leaf_paths import leaf_paths


def numbers_of(rows, temperature=1.0, top_k=0, top_p=1.0, min_p=0.0):
    def full(x, dtype):
        return jnp.broadcast_to(jnp.asarray(x, dtype), (rows,))

    filters = Filters(full(top_k, jnp.int32), full(top_p, jnp.float32), full(min_p, jnp.float32))
    return LosslessNumbers(full(temperature, jnp.float32), filters)


_judge = jax.jit(lambda *args: Lossless().judge(*args))


def judged(tree, token_BR, logits_BRV, position_B, seed=0, **numbers):
    rows = len(token_BR)
    request = request_of(rows, numbers_of(rows, **numbers), seed)
    return _judge(draft_of(tree, token_BR), logits_BRV, request, position_B), request


def walk(paths, token_R, logits_RV, choose):
    """Accepted nodes and the next root, node by node; `choose` of logits and depth is the draw."""
    number, _ = numbered(paths)
    path, nodes = (), [0]
    while True:
        token = choose(logits_RV[nodes[-1]], len(path))
        children = [p for p in sorted(paths) if p[:-1] == path and token_R[number[p]] == token]
        if not children:
            return nodes, token
        path = min(children, key=number.get)
        nodes.append(number[path])


@hypothesis.given(random_paths(), st.integers(0, 2**32 - 1), st.floats(0.2, 2.0))
@hypothesis.settings(deadline=None, max_examples=8)
def test_verdict_equals_a_walk(paths, seed, temperature):
    tree, token_BR, logits_BRV = random_case(paths, seed)
    position_B = np.random.default_rng(seed).integers(0, 1000, len(token_BR)).astype(np.int32)
    verdict, request = judged(
        tree, token_BR, logits_BRV, position_B, temperature=np.float32(temperature)
    )
    offset = 1 + np.arange(tree.max_depth + 1, dtype=np.int32)
    noise_BAV = np.asarray(gumbel(request.key_B2, position_B[:, None] + offset, np.arange(V)))
    expected = [
        walk(
            paths,
            token_R,
            logits_RV,
            lambda row, depth, noise_AV=noise_AV: int(
                np.argmax(row / np.float32(temperature) + noise_AV[depth])
            ),
        )
        for token_R, logits_RV, noise_AV in zip(token_BR, logits_BRV, noise_BAV, strict=True)
    ]
    assert_accepted(verdict, [nodes for nodes, _ in expected])
    assert verdict.next_root_B.tolist() == [token for _, token in expected]


def test_both_ways_to_walk_agree(monkeypatch):
    """A loop that ends early, for CPUs, and one of fixed length, for the rest."""
    tree, token_BR, logits_BRV = random_case([(0,), (1,), (0, 0), (0, 1), (0, 0, 0)], 3)
    position_B = np.arange(len(token_BR), dtype=np.int32)
    early, request = judged(tree, token_BR, logits_BRV, position_B)
    assert set(early.num_B.tolist()) >= {0, 1, 2}
    monkeypatch.setattr(jax.lax, "platform_dependent", lambda x, *, cpu, default: default(x))
    args = (draft_of(tree, token_BR), jnp.asarray(logits_BRV), request, jnp.asarray(position_B))
    fixed = jax.jit(lambda *args: Lossless().judge(*args))(*args)
    jax.tree.map(np.testing.assert_array_equal, fixed, early)


def test_temperature_0_is_greedy():
    tree, token_BR, logits_BRV = random_case([(0,), (1,), (0, 0)], 5)
    zero_B = np.zeros(len(token_BR), np.int32)
    verdict, _ = judged(tree, token_BR, logits_BRV, zero_B, temperature=0.0)
    paths = [(0,), (1,), (0, 0)]
    expected = [
        walk(paths, t, x, lambda row, _: int(row.argmax()))
        for t, x in zip(token_BR, logits_BRV, strict=True)
    ]
    assert_accepted(verdict, [nodes for nodes, _ in expected])


def test_a_filter_of_one_token_is_greedy():
    _, _, logits_BRV = random_case([], 6)
    rows = len(logits_BRV)
    request = request_of(rows, numbers_of(rows, top_k=1))
    first_B = Lossless().first(
        jnp.asarray(logits_BRV[:, 0]), request, jnp.zeros((rows,), jnp.int32)
    )
    np.testing.assert_array_equal(first_B, logits_BRV[:, 0].argmax(-1))


# A small language: the distribution of a token depends on the two before it.
VOCABULARY, ROWS = 4, 40_000
LOGITS = np.random.default_rng(1).normal(size=(VOCABULARY, VOCABULARY, VOCABULARY)) * 1.2
LOGITS = LOGITS.astype(np.float32)


def q_of(before, last, temperature):
    z = np.exp(LOGITS[before, last].astype(np.float64) / temperature)
    return z / z.sum()


def joint(temperature):
    """P(x1, x2, x3) after the tokens 0, 0, by enumeration: [4, 4, 4]."""
    p = np.zeros((VOCABULARY,) * 3)
    for a, b, c in itertools.product(range(VOCABULARY), repeat=3):
        q = [q_of(0, 0, temperature)[a], q_of(0, a, temperature)[b], q_of(a, b, temperature)[c]]
        p[a, b, c] = np.prod(q)
    return p


def three_tokens(tree, judge):
    """What each row emits after two tokens 0, in as many steps as it takes: [ROWS, 3].

    Drafts are random; siblings differ, as ranked tokens do.
    """
    rng, row_B = np.random.default_rng(0), np.arange(ROWS)
    out = np.zeros((ROWS, 2 + 3 + 2 * (tree.max_depth + 1)), np.int32)
    num_B = np.zeros(ROWS, np.int32)  # emitted, the next root included
    while num_B.min() < 3:
        token_BR = np.zeros((ROWS, tree.R), np.int32)
        token_BR[:, 0] = out[row_B, 1 + num_B]
        before_BR = np.zeros_like(token_BR)
        before_BR[:, 0] = out[row_B, num_B]
        shift_B = rng.integers(0, VOCABULARY, ROWS)
        for node in range(1, tree.R):
            before_BR[:, node] = token_BR[:, tree.parent_R[node]]
            token_BR[:, node] = (shift_B * tree.depth_R[node] + tree.rank_R[node]) % VOCABULARY
        accepted_BA, count_B, next_B = judge(tree, token_BR, LOGITS[before_BR, token_BR], num_B)
        count_B = np.where(num_B < 3, count_B, 0)
        for i in range(tree.max_depth):
            more_B = i < count_B
            new_B = token_BR[row_B, accepted_BA[:, i + 1]]
            out[row_B[more_B], (2 + num_B + i)[more_B]] = new_B[more_B]
        waiting_B = num_B < 3
        num_B = num_B + np.where(waiting_B, count_B + 1, 0)
        out[row_B[waiting_B], (1 + num_B)[waiting_B]] = next_B[waiting_B]
    return out[:, 2:5]


def lossless_judge(temperature):
    def judge(tree, token_BR, logits_BRV, num_B):
        verdict, _ = judged(tree, token_BR, logits_BRV, num_B, 5, temperature=temperature)
        return [np.asarray(x) for x in (verdict.nodes_BA, verdict.num_B, verdict.next_root_B)]

    return judge


def original_judge():
    """The original draws anew on every path, also at the nodes that paths share."""
    rng = np.random.default_rng(5)

    def judge(tree, token_BR, logits_BRV, num_B):
        del num_B
        nodes_BA = np.zeros((ROWS, tree.max_depth + 1), np.int32)
        count_B, next_B = np.full(ROWS, -1), np.zeros(ROWS, np.int32)
        for path in leaf_paths(tree):
            noise = rng.gumbel(size=(ROWS, len(path), VOCABULARY))
            drawn_BA = np.argmax(logits_BRV[:, path] + noise, axis=-1)
            length_B = np.cumprod(drawn_BA[:, :-1] == token_BR[:, path[1:]], axis=1).sum(1)
            longer_B = length_B > count_B
            nodes_BA[longer_B, : len(path)] = path
            next_B[longer_B] = drawn_BA[np.arange(ROWS), length_B][longer_B]
            count_B = np.maximum(count_B, length_B)
        return nodes_BA, count_B, next_B

    return judge


def p_value(samples, temperature):
    count = np.zeros((VOCABULARY,) * 3)
    np.add.at(count, tuple(samples.T), 1)
    return scipy.stats.chisquare(count.ravel(), ROWS * joint(temperature).ravel()).pvalue


TREE = build_tree([[0], [1], [0, 0], [0, 1], [1, 0], [1, 1]])


@pytest.mark.parametrize("temperature", [0.7, 1.0])
def test_three_tokens_have_the_joint_distribution(temperature):
    samples = three_tokens(TREE, lossless_judge(np.float32(temperature)))
    assert p_value(samples, temperature) > 1e-3


def test_the_power_of_that_test():
    """It finds the bias of drawing per path, as the original does: the longest path wins."""
    assert p_value(three_tokens(TREE, original_judge()), 1.0) < 1e-6


def test_drafts_are_ranked_by_the_noise_that_decides():
    """Heads that know the model's distribution propose the very token that will be drawn."""
    rows, vocabulary = 5, 40
    logits_BMV = jax.random.normal(jax.random.key(0), (rows, 3, vocabulary))
    request = request_of(rows, numbers_of(rows, temperature=[0, 0.5, 1, 2, 0.8]))
    position_B = jnp.arange(rows, dtype=jnp.int32)
    position_BM = position_B[:, None] + jnp.arange(1, 4, dtype=jnp.int32)[None]
    score_BMV = Lossless().rank(logits_BMV, request, position_BM, None)
    for head in range(3):
        drawn_B = Lossless().first(logits_BMV[:, head], request, position_B + head + 1)
        np.testing.assert_array_equal(score_BMV[:, head].argmax(-1), drawn_B)
    some = jnp.asarray([30, 2, 17], jnp.int32)
    score_BMd = Lossless().rank(logits_BMV[..., some], request, position_BM, some)
    np.testing.assert_allclose(score_BMd, score_BMV[..., some], rtol=1e-6)
    # Branches of one depth guess at one position.
    score_BNV = Lossless().rank(logits_BMV, request, position_BM[:, 1:2], None)
    np.testing.assert_array_equal(score_BNV[:, 1], score_BMV[:, 1])
    drawn_B = Lossless().first(logits_BMV[:, 0], request, position_B + 2)
    np.testing.assert_array_equal(score_BNV[:, 0].argmax(-1), drawn_B)


def test_without_filters_nothing_asks_about_them():
    """A GPU asks the host at every condition, and waits."""
    rows, vocabulary = 3, 40
    position_B = jnp.arange(rows, dtype=jnp.int32)
    draft = draft_of(TREE, np.zeros((rows, TREE.R), np.int32))
    logits_BRV = jnp.zeros((rows, TREE.R, vocabulary))
    position_BX = jnp.broadcast_to(position_B[:, None], (rows, TREE.R))

    def questions(numbers):
        def decide(request):
            rank = Lossless().rank(logits_BRV, request, position_BX, None)
            return rank, Lossless().judge(draft, logits_BRV, request, position_B)

        program = jax.jit(decide).lower(request_of(rows, numbers)).compile()
        return program.as_text().count(" conditional(")

    numbers = numbers_of(rows)
    assert questions(numbers) > 0
    assert questions(dataclasses.replace(numbers, filters=None)) == 0


EACH = {"top_k": 10 * [5, 0, 0, 12], "top_p": 10 * [1, 0.6, 1, 0.9], "min_p": 10 * [0, 0, 0.2, 0]}


@pytest.mark.parametrize("filters", [{"top_k": 5}, {"top_p": 0.6}, {"min_p": 0.2}, {}, EACH])
def test_drafts_are_ranked_as_the_filters_will_have_it(filters):
    """What stays comes first, by noise; then what the head finds likely, whatever the noise."""
    rows, vocabulary = 40, 64
    logits_BMV = 2 * jax.random.normal(jax.random.key(3), (rows, 2, vocabulary))
    position_BM = jnp.arange(2 * rows, dtype=jnp.int32).reshape(rows, 2)
    request = request_of(rows, numbers_of(rows, temperature=0.9, **filters))
    free = request_of(rows, numbers_of(rows, temperature=0.9))
    score_BMV = np.asarray(Lossless().rank(logits_BMV, request, position_BM, None))
    noisy_BMV = np.asarray(Lossless().rank(logits_BMV, free, position_BM, None))
    for head in range(2):
        drawn_B = Lossless().first(logits_BMV[:, head], request, position_BM[:, head])
        # A token within three per cent of the cut may come first where it should have been dropped.
        assert (score_BMV[:, head].argmax(-1) == drawn_B).mean() > 0.9
    scaled_BMV = (logits_BMV - logits_BMV.max(-1, keepdims=True)) / np.float32(0.9)
    for row, head in np.ndindex(rows, 2):
        numbers = jax.tree.map(lambda x, row=row: x[row : row + 1], request.rule_numbers.filters)
        stays_V = np.isfinite(filtered(scaled_BMV[row, head][None], numbers)[0])
        assert set(np.flatnonzero(stays_V)) <= set(np.flatnonzero(score_BMV[row, head] > -500))
        for is_first, expected in (True, noisy_BMV), (False, logits_BMV):
            own_V = (score_BMV[row, head] > -500) == is_first
            order = np.argsort(score_BMV[row, head][own_V])
            assert (np.diff(np.asarray(expected)[row, head][own_V][order]) > -1e-4).all()


def test_the_root_alone_draws_one_token():
    rows = 6
    request = request_of(rows, numbers_of(rows))
    logits = jax.random.normal(jax.random.key(1), (rows, 1, V))
    position_B = jnp.arange(rows, dtype=jnp.int32)
    draft = root_draft(jnp.zeros((rows,), jnp.int32))
    verdict = _judge(draft, logits, request, position_B)
    first_B = Lossless().first(logits[:, 0], request, position_B + 1)
    assert verdict.num_B.tolist() == [0] * rows
    np.testing.assert_array_equal(verdict.next_root_B, first_B)
