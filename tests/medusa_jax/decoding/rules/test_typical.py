"""Typical acceptance against plain walks over the lists of paths, in Python floats."""

import math

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from medusa_jax.decoding.rules.typical import Typical, sample_typical
from medusa_jax.tree.build import build_tree
from medusa_jax.tree.presets import load_tree
from tests.medusa_jax.decoding.rules.judging import (
    B,
    V,
    assert_accepted,
    draft_of,
    greedy,
    numbered,
    numbers_of,
    random_case,
    random_paths,
    request_of,
    typical,
)

EPSILON, DELTA = 0.09, 0.3


def sample(keys_B, logits_BV, temperature, epsilon, delta):
    numbers = numbers_of(len(logits_BV), temperature, epsilon, delta)
    return _sample(keys_B, logits_BV, numbers)


_sample = jax.jit(sample_typical)


def test_nothing_is_accepted_below_a_leaf():
    tree = build_tree([[0], [1], [0, 0]])
    tokens_BR = np.array([[1, 4, 1, 0]], np.int32)
    for best_at_leaf in range(3):
        logits_BRV = 100 * np.eye(V, dtype=np.float32)[[[1, 4, best_at_leaf, 0]]]
        verdict = typical(tree, tokens_BR, logits_BRV, 1.0, EPSILON, DELTA)
        assert_accepted(verdict, [[0, 2]])


def test_root_alone_accepts_nothing():
    token_BR, logits_BRV = np.zeros((3, 1), np.int32), np.zeros((3, 1, V), np.float32)
    assert_accepted(typical(build_tree([]), token_BR, logits_BRV, 1.0, EPSILON, DELTA), [[0]] * 3)


def numpy_distribution(logits_V, temperature):
    z_V = np.exp((logits_V - logits_V.max()) / temperature)
    return z_V / z_V.sum()


def numpy_threshold(q_V, epsilon, delta):
    return min(epsilon, delta * np.exp(np.sum(q_V * np.log(q_V + 1e-5))))


def walk_typical(paths, tokens_R, logits_RV, temperature, epsilon, delta):
    """The accepted nodes, and how close any decision on the way came to a tie."""
    number, leaves = numbered(paths)
    best, best_key, scores, margin = [0], (0, 0.0), {}, np.inf
    for leaf in leaves:
        nodes, score = [0], 0.0
        for depth in range(1, len(leaf) + 1):
            q_V = numpy_distribution(logits_RV[nodes[-1]].astype(np.float64), temperature)
            node = number[leaf[:depth]]
            q, threshold = q_V[tokens_R[node]], numpy_threshold(q_V, epsilon, delta)
            margin = min(margin, abs(q - threshold))
            if not q > threshold:
                break
            nodes.append(node)
            score += math.log(q)
        scores[tuple(nodes)] = score
        if (len(nodes) - 1, score) > best_key:
            best, best_key = nodes, (len(nodes) - 1, score)
    for nodes, score in scores.items():
        if len(nodes) == len(best) and list(nodes) != best:
            margin = min(margin, abs(score - best_key[1]))
    return best, margin


@hypothesis.given(
    random_paths(),
    st.integers(0, 2**32 - 1),
    st.floats(0.1, 2.0),
    st.floats(0.01, 0.5),
    st.floats(0.05, 0.9),
)
@hypothesis.settings(deadline=None, max_examples=15)
def test_typical_equals_a_walk(paths, seed, temperature, epsilon, delta):
    tree, tokens_BR, logits_BRV = random_case(paths, seed)
    walks = [
        walk_typical(paths, tokens_R, logits_RV, temperature, epsilon, delta)
        for tokens_R, logits_RV in zip(tokens_BR, logits_BRV, strict=True)
    ]
    clear = [b for b, (_, margin) in enumerate(walks) if margin > 1e-5]
    assert len(clear) > B // 2
    verdict = typical(tree, tokens_BR, logits_BRV, temperature, epsilon, delta)
    assert_accepted(
        jax.tree.map(lambda x: x[np.array(clear)], verdict), [walks[b][0] for b in clear]
    )


def test_typical_prefers_the_likelier_of_equally_long_paths():
    tree = build_tree([[0], [1], [2]])  # rows: node 3, 2, 1
    tokens_BR = np.array([[0, 1, 2, 3]], np.int32)
    logits_BRV = np.zeros((1, 4, V), np.float32)
    logits_BRV[0, 0] = np.log([0.04, 0.3, 0.35, 0.3, 0.01])
    assert_accepted(typical(tree, tokens_BR, logits_BRV, 1.0, EPSILON, DELTA), [[0, 2]])


@pytest.mark.parametrize("below", [True, False])
def test_threshold_switches_at_the_entropy(below):
    """A token just below epsilon passes from H = ln(delta / epsilon) on; just above, always."""
    p = EPSILON - 1e-4 if below else EPSILON + 1e-4
    peak = np.linspace(0.0, 1 - 1e-3, 100)  # share of the best token in the remaining mass
    rest = (1 - p) * ((1 - peak[:, None]) / 8 + peak[:, None] * np.eye(8)[0])
    q_BV = np.concatenate([np.full((len(peak), 1), p), rest], axis=1)
    entropy_B = -np.sum(q_BV * np.log(q_BV + 1e-5), axis=1)
    tree = build_tree([[0]])
    tokens_BR = np.zeros((len(peak), 2), np.int32)
    logits_BRV = np.log(np.stack([q_BV, q_BV], axis=1)).astype(np.float32)
    passes_B = typical(tree, tokens_BR, logits_BRV, 1.0, EPSILON, DELTA).num_B == 1
    switch = math.log(DELTA / EPSILON)
    assert switch == pytest.approx(1.204, abs=1e-3)
    assert entropy_B.min() < switch - 0.5 < switch + 0.5 < entropy_B.max()
    clear = np.abs(entropy_B - switch) > 5e-3
    expected = entropy_B > switch if below else np.ones(len(peak), bool)
    assert (np.asarray(passes_B) == expected)[clear].all()


@pytest.mark.parametrize(("vocabulary", "passes"), [(200_000, 1), (300_000, 0)])
def test_entropy_has_its_offset_inside_the_logarithm(vocabulary, passes):
    """Uniform q: 1 / V > delta * (1 / V + 1e-5) up to V = 233333; without the offset, always."""
    logits_BRV = np.zeros((1, 2, vocabulary), np.float32)
    tokens_BR = np.array([[0, 7]], np.int32)
    accepted = typical(load_tree("chain:1"), tokens_BR, logits_BRV, 1.0, EPSILON, DELTA)
    assert accepted.num_B.tolist() == [passes]


@hypothesis.given(st.integers(0, 2**32 - 1), st.floats(0.01, 3.0), st.floats(0.01, 0.9))
@hypothesis.settings(deadline=None, max_examples=15)
def test_best_token_always_passes(seed, temperature, delta):
    rng = np.random.default_rng(seed)
    scale_B11 = 10 ** rng.uniform(-3, 2, (B, 1, 1))
    logits_BRV = (rng.normal(size=(B, 3, 32)) * scale_B11).astype(np.float32)
    best_BR = logits_BRV.argmax(-1).astype(np.int32)
    tokens_BR = np.concatenate([best_BR[:, :1], best_BR[:, :2]], axis=1)
    accepted = typical(load_tree("chain:2"), tokens_BR, logits_BRV, temperature, 0.5, delta)
    assert accepted.num_B.tolist() == [2] * B


@hypothesis.given(random_paths(), st.integers(0, 2**32 - 1))
@hypothesis.settings(deadline=None, max_examples=8)
def test_cold_typical_is_greedy(paths, seed):
    tree, tokens_BR, logits_BRV = random_case(paths, seed)
    best_BR = logits_BRV.argmax(-1).astype(np.int32)
    expected = greedy(tree, tokens_BR, best_BR)
    for temperature in (0.0, 1e-45, 1e-38, 1e-20, 1e-6):
        verdict = typical(tree, tokens_BR, logits_BRV, temperature, EPSILON, DELTA)
        jax.tree.map(np.testing.assert_array_equal, verdict, expected)


def test_temperature_zero_is_greedy_at_ties_and_any_threshold():
    tree = build_tree([[0], [1]])
    tokens_BR = np.array([[0, 2, 1]], np.int32)
    logits_BRV = np.zeros((1, 3, V), np.float32)
    logits_BRV[0, 0, 1:3] = 7  # argmax is token 1, at node 2
    for epsilon, delta in ((EPSILON, DELTA), (1.0, 1.0), (0.0, 0.0)):
        assert_accepted(typical(tree, tokens_BR, logits_BRV, 0.0, epsilon, delta), [[0, 2]])


def test_masked_vocabulary_gives_no_nan():
    tree = load_tree("chain:1")
    logits_BRV = np.full((1, 2, V), -np.inf, np.float32)
    logits_BRV[0, :, 2] = 0
    for temperature in (0.0, 1e-20, 1.0):
        for token, nodes in ((2, [0, 1]), (3, [0])):
            tokens_BR = np.array([[0, token]], np.int32)
            accepted = typical(tree, tokens_BR, logits_BRV, temperature, EPSILON, DELTA)
            assert_accepted(accepted, [nodes])


def test_bfloat16_logits_are_judged_in_float32():
    tree, tokens_BR, logits_BRV = random_case([(0,), (1,), (0, 0), (0, 1)], 0)
    logits_BRV = jnp.asarray(logits_BRV, jnp.bfloat16)
    low = typical(tree, tokens_BR, logits_BRV, 0.7, EPSILON, DELTA)
    high = typical(tree, tokens_BR, logits_BRV.astype(jnp.float32), 0.7, EPSILON, DELTA)
    jax.tree.map(np.testing.assert_array_equal, low, high)


def test_one_compilation_without_a_sort():
    tree, tokens_BR, logits_BRV = random_case([(0,), (1,), (0, 0)], 0)
    rule, draft = Typical(sampled_root=True), draft_of(tree, tokens_BR)
    judge = jax.jit(lambda *args: rule.judge(*args))
    for temperature, epsilon in ((0.0, 0.09), (0.7, 0.2)):
        request = request_of(B, numbers_of(B, temperature, epsilon, DELTA))
        judge(draft, logits_BRV, request, jnp.zeros((B,), jnp.int32))
        text = judge.lower(draft, logits_BRV, request, jnp.zeros((B,), jnp.int32)).as_text()
        assert "hlo.sort" not in text
        assert "top_k" not in text
    assert judge._cache_size() == 1


def test_at_equality_a_node_is_rejected_and_a_token_may_be_drawn():
    """Four equal logits: q = epsilon = 1/4 at every token, and the other threshold is above it."""
    logits_BRV = np.zeros((1, 2, 4), np.float32)
    verdict = typical(load_tree("chain:1"), np.array([[0, 2]]), logits_BRV, 1.0, 0.25, 4.0)
    assert verdict.num_B.tolist() == [0]
    keys_B = jax.random.split(jax.random.key(0), 200)
    tokens_B = sample(keys_B, np.zeros((200, 4), np.float32), 1.0, 0.25, 4.0)
    assert set(tokens_B.tolist()) == {0, 1, 2, 3}


def test_the_next_root_is_drawn_by_the_key_of_its_own_position():
    """Two rows of one key, an accepted node each, roots at positions 5 and 6."""
    tokens_BR = np.zeros((2, 2), np.int32)
    logits_BRV = np.zeros((2, 2, 1000), np.float32)
    logits_BRV[:, 0, 0] = 40.0  # token 0 is accepted; after it all tokens are equally likely
    request = request_of(2, numbers_of(2, 1.0, 1e-9, DELTA))
    request = jax.tree.map(lambda x: jnp.broadcast_to(x[:1], x.shape), request)
    position_B = jnp.asarray([5, 6], jnp.int32)
    draft = draft_of(load_tree("chain:1"), tokens_BR)
    verdict = Typical(True).judge(draft, logits_BRV, request, position_B)
    assert verdict.num_B.tolist() == [1, 1]
    expected_B = Typical(True).first(logits_BRV[:, 1], request, position_B + 2)
    assert verdict.next_root_B.tolist() == expected_B.tolist()
    assert expected_B[0] != expected_B[1]


@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.3])
def test_sampled_root_follows_the_truncated_distribution(temperature):
    count, vocabulary = 20_000, 12
    logits_V = np.random.default_rng(3).permutation(np.linspace(0, 3, 12, dtype=np.float32))
    q_V = numpy_distribution(logits_V.astype(np.float64), temperature)
    allowed_V = q_V >= numpy_threshold(q_V, EPSILON, DELTA)
    assert 1 < allowed_V.sum() < vocabulary
    keys_B = jax.random.split(jax.random.key(1), count)
    logits_BV = np.broadcast_to(logits_V, (count, vocabulary))
    tokens_B = sample(keys_B, logits_BV, temperature, EPSILON, DELTA)
    assert tokens_B.dtype == jnp.int32
    seen_V = np.bincount(tokens_B, minlength=vocabulary)
    assert (seen_V[~allowed_V] == 0).all()
    expected = q_V[allowed_V] / q_V[allowed_V].sum() * count
    assert scipy.stats.chisquare(seen_V[allowed_V], expected).pvalue > 1e-3


def test_sampled_root_depends_on_its_own_key_only():
    keys_B = jax.random.split(jax.random.key(2), B)
    logits_BV = np.zeros((B, 100), np.float32)
    tokens_B = sample(keys_B, logits_BV, 1.0, 0.001, DELTA)
    assert len(set(tokens_B.tolist())) > B // 2
    reversed_B = sample(keys_B[::-1], logits_BV, 1.0, 0.001, DELTA)
    np.testing.assert_array_equal(reversed_B, tokens_B[::-1])


@pytest.mark.parametrize(("temperature", "epsilon"), [(0.0, EPSILON), (1e-45, 0.0), (1.0, 1.0)])
def test_sampled_root_is_the_best_token(temperature, epsilon):
    """At temperature 0, and where the threshold leaves nothing else."""
    logits_BV = np.random.default_rng(0).normal(size=(B, V)).astype(np.float32)
    keys_B = jax.random.split(jax.random.key(0), B)
    tokens_B = sample(keys_B, logits_BV, temperature, epsilon, 100.0)
    np.testing.assert_array_equal(tokens_B, logits_BV.argmax(-1))
