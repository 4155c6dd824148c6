"""Filters against those of transformers (on torch), and against their definitions."""

import functools

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medusa_jax.decoding.rules.filters import Filters, filtered


def numbers_of(rows, top_k=0, top_p=1.0, min_p=0.0):
    return Filters(
        jnp.broadcast_to(jnp.asarray(top_k, jnp.int32), (rows,)),
        jnp.broadcast_to(jnp.asarray(top_p, jnp.float32), (rows,)),
        jnp.broadcast_to(jnp.asarray(min_p, jnp.float32), (rows,)),
    )


def kept(score_BV, top_k=0, top_p=1.0, min_p=0.0):
    numbers = numbers_of(len(score_BV), top_k, top_p, min_p)
    out = np.asarray(_filtered(jnp.asarray(score_BV, jnp.float32), numbers))
    stays = out > -np.inf
    np.testing.assert_array_equal(out[stays], np.float32(score_BV)[stays])
    return stays


_filtered = jax.jit(filtered)


def scores(seed, rows=8, vocabulary=40):
    logits = np.random.default_rng(seed).normal(size=(rows, vocabulary)).astype(np.float32) * 2
    return logits - logits.max(-1, keepdims=True)


def slow(score_V, top_k, top_p, min_p):
    """The definitions, one token after the other in float64; and how close a cut came to a tie."""
    p = np.exp(score_V.astype(np.float64))
    stays, margin = np.ones(len(p), bool), np.inf
    if top_k:
        stays &= p >= np.sort(p)[::-1][min(top_k, len(p)) - 1]
    p = np.where(stays, p, 0) / p[stays].sum()
    if top_p < 1:
        above = np.array([p[p > x].sum() for x in p])
        margin = np.abs(above - top_p).min()
        stays &= above < top_p
    with np.errstate(divide="ignore"):
        margin = min(margin, np.abs(score_V - np.log(min_p)).min())
    return stays & (p >= min_p * p.max()), margin


@hypothesis.given(
    st.integers(0, 2**32 - 1), st.integers(0, 45), st.floats(0.01, 1.0), st.floats(0.0, 1.0)
)
@hypothesis.settings(deadline=None, max_examples=60)
def test_filters_equal_their_definitions(seed, top_k, top_p, min_p):
    score_BV = scores(seed)
    top_p, min_p = float(np.float32(top_p)), float(np.float32(min_p))
    stays = kept(score_BV, top_k, top_p, min_p)
    for row, score_V in zip(stays, score_BV, strict=True):
        expected, margin = slow(score_V, top_k, top_p, min_p)
        if margin > 1e-5:
            np.testing.assert_array_equal(row, expected)


@pytest.mark.parametrize("options", [{"top_k": 7}, {"top_p": 0.7}, {"top_k": 9, "top_p": 0.8}])
def test_a_rough_filter_keeps_little_more(options):
    score_BV = scores(5, rows=200)
    exact = kept(score_BV, **options)
    _rough = jax.jit(functools.partial(filtered, is_rough=True))
    numbers = numbers_of(200, **options)
    rough = np.isfinite(_rough(jnp.asarray(score_BV), numbers))
    assert (rough >= exact).all()
    assert rough.sum() <= 1.05 * exact.sum()
    if len(options) == 1:  # a token more before the second filter moves its cut
        cut_B = np.where(exact, score_BV, 0).min(-1)
        assert (np.where(rough, score_BV, 0).min(-1) >= 1.04 * cut_B).all()


@pytest.mark.parametrize("options", [{}, {"top_k": 40}, {"top_p": 1.0}, {"min_p": 0.0}])
def test_filters_that_are_off_keep_everything(options):
    assert kept(scores(0), **options).all()


def test_ties_at_a_cut_are_kept():
    score = np.log(np.array([[0.4, 0.2, 0.2, 0.1, 0.1]])) - np.log(0.4)
    assert kept(score, top_k=2).tolist() == [[True, True, True, False, False]]
    assert kept(score, top_p=0.5).tolist() == [[True, True, True, False, False]]


def test_neighbouring_numbers_are_no_tie():
    less = np.nextafter(np.float32(-1), np.float32(-2))
    assert kept(np.array([[0, -1, less, -3]], np.float32), top_k=2).tolist() == [
        [True, True, False, False]
    ]


def test_rows_have_filters_of_their_own():
    score_BV = scores(3, rows=3)
    together = kept(score_BV, top_k=[0, 5, 1], top_p=[0.5, 1.0, 1.0], min_p=[0.0, 0.3, 0.0])
    alone = [kept(score_BV[:1], top_p=0.5), kept(score_BV[1:2], 5, 1.0, 0.3)]
    np.testing.assert_array_equal(together[:2], np.concatenate(alone))
    assert together[2].sum() == 1


def test_the_best_token_always_stays():
    stays = kept(scores(1), top_k=1, top_p=1e-6, min_p=1.0)
    np.testing.assert_array_equal(stays.argmax(-1), scores(1).argmax(-1))
    assert (stays.sum(-1) == 1).all()
