"""Gumbel noise that is a function of row, position and token, however it is asked for.

Adding it to log-probabilities and taking the argmax draws a token exactly (the Gumbel-max trick).
Since it depends on nothing else, plain decoding, any tree and any batch see the same noise.
"""

import jax
import jax.numpy as jnp
from jax.extend.random import threefry_2x32


def gumbel(key_B2: jax.Array, position_BX: jax.Array, token_V: jax.Array) -> jax.Array:
    """Standard Gumbel noise of some tokens at some positions of every row.

    Args:
      key_B2: uint32, the data of one threefry key per row.
      position_BX: int32.
      token_V: integer token ids; the noise of a token does not depend on the others.

    Returns:
      float32 [B, X, V].
    """
    count_V = jnp.concatenate([jnp.zeros(token_V.shape, jnp.uint32), token_V.astype(jnp.uint32)])

    def of_position(key_2: jax.Array, position: jax.Array) -> jax.Array:
        # What `jax.random.fold_in` does, and then one counter per token.
        zero = jnp.uint32(0)
        key_2 = threefry_2x32(key_2, jnp.stack([zero, position.astype(jnp.uint32)]))
        high_V, low_V = jnp.split(threefry_2x32(key_2, count_V), 2)
        return _gumbel(high_V, low_V)

    return jax.vmap(jax.vmap(of_position, (None, 0)))(key_B2, position_BX)


def _gumbel(high: jax.Array, low: jax.Array) -> jax.Array:
    """-log(-log(1 - u)) of u = 64 random bits / 2**64.

    Large noise comes from small u, where a float32 is fine enough for all bits to count: the tail
    ends at 44 (that of `jax.random.gumbel`'s default, which has 23 bits, at 15.9).
    """
    u = high.astype(jnp.float32) * 2.0**-32 + low.astype(jnp.float32) * 2.0**-64
    u = jnp.clip(u, 2.0**-64, 1 - 2.0**-24)
    return -jnp.log(-jnp.log1p(-u))
