"""The best tokens against numpy's argmax and sort, and which programs search by blocks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medusa_jax.nn import vocabulary as module
from medusa_jax.nn.vocabulary import best_token, best_tokens

INF, NAN = np.inf, np.nan


def random_logits(shape, dtype=np.float32):
    return np.random.default_rng(0).normal(size=shape).astype(dtype)


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize("vocab", [1, 24, 127, 128, 129, 1000, 32000])
def test_it_is_the_argmax(vocab, jit):
    find = jax.jit(best_token) if jit else best_token
    for leading in ((), (5,), (2, 3)):
        logits = random_logits((*leading, vocab))
        token = find(logits)
        assert token.dtype == jnp.int32
        np.testing.assert_array_equal(token, np.argmax(logits, axis=-1))


def test_every_place_is_found():
    logits = 9 * np.eye(300, dtype=np.float32) + random_logits(300)[None] / 9
    np.testing.assert_array_equal(jax.jit(best_token)(logits), np.arange(300))


@pytest.mark.parametrize("value", [7.0, INF, NAN])
def test_the_first_of_equals_wins(value):
    """Within a block, in two blocks, and among numbers that are not numbers."""
    logits = random_logits((4, 400))
    for row, places in zip(logits, ([3, 9], [127, 128], [399, 140, 300], [0, 399]), strict=True):
        row[places] = value
    wanted = np.argmax(logits, axis=-1)
    assert wanted.tolist() == [3, 127, 140, 0]
    np.testing.assert_array_equal(jax.jit(best_token)(logits), wanted)


def test_all_minus_infinity_is_the_first():
    assert jax.jit(best_token)(np.full((130,), -INF, np.float32)) == 0


def test_equal_bfloat16_logits():
    logits = jnp.asarray(random_logits((3, 5000)), jnp.bfloat16)  # a hundred numbers, many ties
    wanted = np.argmax(np.asarray(logits, np.float32), axis=-1)
    np.testing.assert_array_equal(jax.jit(best_token)(logits), wanted)


@pytest.mark.parametrize("platform", ["tpu", "cuda"])
def test_accelerators_reduce_once(platform):
    """Lowered in a process whose backend is a CPU, as ahead-of-time compilation does."""
    traced = jax.jit(best_token).trace(np.zeros((2, 300), np.float32))
    assert "stablehlo.pad" in traced.lower(lowering_platforms=("cpu",)).as_text()
    assert "stablehlo.pad" not in traced.lower(lowering_platforms=(platform,)).as_text()


@pytest.mark.parametrize("find", [best_tokens, module._top_by_blocks])
@pytest.mark.parametrize(
    ("vocab", "number"), [(5, 5), (129, 1), (1000, 3), (2049, 16), (32000, 64)]
)
def test_the_highest_are_those_of_a_sort(find, vocab, number):
    for leading in ((), (2, 3)):
        logits = random_logits((*leading, vocab))
        top, token = jax.jit(find, static_argnums=1)(logits, number)
        order = np.argsort(-logits, axis=-1, kind="stable")[..., :number]
        np.testing.assert_array_equal(token, order)
        np.testing.assert_array_equal(top, np.take_along_axis(logits, order, axis=-1))


def test_high_logits_may_share_a_block():
    logits = random_logits(4096)
    logits[1000:1016] += 100
    _, token = jax.jit(module._top_by_blocks, static_argnums=1)(logits, 16)
    assert sorted(np.asarray(token).tolist()) == [*range(1000, 1016)]


def test_forbidden_tokens_come_last_and_once():
    """With a bias of minus infinity on nearly all, and a last block that is not whole."""
    logits = np.full((390,), -INF, np.float32)
    logits[[388, 5]] = 1, 2
    _, token = jax.jit(module._top_by_blocks, static_argnums=1)(logits, 3)
    assert token[:2].tolist() == [5, 388]
    assert int(token[2]) < 390
    assert int(token[2]) not in (5, 388)
