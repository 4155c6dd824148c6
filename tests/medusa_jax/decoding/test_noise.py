"""The noise is Gumbel's, and a function of key, position and token alone."""

import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats
from jax.extend.random import threefry_2x32

from medusa_jax.decoding.noise import _gumbel, gumbel

KEYS = jax.random.key_data(jax.random.split(jax.random.key(0), 3))


def test_noise_is_a_function_of_key_position_and_token():
    token_V = jnp.arange(50, dtype=jnp.int32)
    whole = gumbel(KEYS, jnp.asarray([[4, 9], [4, 5], [0, 9]], jnp.int32), token_V)
    assert whole.shape == (3, 2, 50)
    assert whole.dtype == jnp.float32
    some = jnp.asarray([40, 3, 3], jnp.int32)
    alone = gumbel(KEYS[1:2], jnp.asarray([[5]], jnp.int32), some)
    np.testing.assert_array_equal(alone[0, 0], whole[1, 1][some])
    rows = np.asarray(whole).reshape(6, 50)
    assert len(np.unique(rows)) > 290  # rows, positions and tokens differ


def test_positions_are_folded_as_jax_does():
    key = jax.random.key(7)
    here = jax.random.key_data(jax.random.fold_in(key, 12))
    high, low = threefry_2x32(here, jnp.asarray([0, 3], jnp.uint32))
    noise = gumbel(jax.random.key_data(key)[None], jnp.full((1, 1), 12, jnp.int32), jnp.arange(4))
    assert noise[0, 0, 3] == _gumbel(high, low)


def test_distribution():
    position_BX = jnp.broadcast_to(jnp.arange(200, dtype=jnp.int32), (3, 200))
    noise = np.asarray(gumbel(KEYS, position_BX, jnp.arange(1000, dtype=jnp.int32))).ravel()
    assert scipy.stats.kstest(noise, "gumbel_r").pvalue > 0.01
    # The upper tail: P(noise > 8) = 3.35e-4.
    tail = scipy.stats.binomtest(int((noise > 8).sum()), noise.size, -np.expm1(-np.exp(-8.0)))
    assert tail.pvalue > 0.01


def test_bits_at_both_ends_are_finite():
    ends = jnp.asarray([0, 0, 1, 2**32 - 1, 2**32 - 1], jnp.uint32)
    lows = jnp.asarray([0, 1, 0, 0, 2**32 - 1], jnp.uint32)
    noise = np.asarray(_gumbel(ends, lows))
    np.testing.assert_allclose(
        noise[:3], [64 * np.log(2), 64 * np.log(2), 32 * np.log(2)], rtol=1e-6
    )
    assert np.isfinite(noise).all()
    assert (noise[3:] < -2.7).all()
