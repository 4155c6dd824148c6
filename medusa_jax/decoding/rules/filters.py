"""Which tokens may be sampled: top-k, top-p and min-p, in the order of transformers.

A filter keeps the tokens from some threshold upwards. The threshold is found by halving, over the
bits of floating-point numbers, instead of sorting the vocabulary. Tokens that tie at a cut are all
kept.
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

_INFINITY = 0x7F800000  # bits of a float32; those of smaller positive numbers are smaller
_EXACT = 31  # halvings that find one of them
_ROUGH = 13  # and those that find it to within three per cent


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Filters:
    """The numbers of the filters, one entry per row.

    Attributes:
      top_k_B: int32, the most likely tokens that stay; 0: all.
      top_p_B: float32 in (0, 1], the fewest tokens with this much probability stay; 1: all.
      min_p_B: float32 in [0, 1], tokens with this share of the highest probability stay; 0: all.
    """

    top_k_B: jax.Array
    top_p_B: jax.Array
    min_p_B: jax.Array


def filtered(score_BV: jax.Array, filters: Filters, *, is_rough: bool = False) -> jax.Array:
    """Scores with -inf in place of the tokens that the filters drop.

    Args:
      score_BV: float32, logits / temperature less their maximum: at most 0, and 0 somewhere.
      filters: top-k counts first, top-p renormalises what it left, min-p compares with the best.
      is_rough: saves half of the work; tokens whose score is within three per cent of a cut's may
        then stay, too.
    """
    halvings = _ROUGH if is_rough else _EXACT
    top_k, top_p = (functools.partial(keep, halvings=halvings) for keep in (_top_k, _top_p))
    score_BV = _when(filters.top_k_B > 0, top_k, score_BV, filters.top_k_B)
    score_BV = _when(filters.top_p_B < 1, top_p, score_BV, filters.top_p_B)
    least_B1 = jnp.log(filters.min_p_B)[:, None]  # of 0: -inf, which drops nothing
    return jnp.where(score_BV >= least_B1, score_BV, -jnp.inf)


def _when(
    wanted_B: jax.Array,
    keep: Callable[[jax.Array, jax.Array], jax.Array],
    score_BV: jax.Array,
    number_B: jax.Array,
) -> jax.Array:
    """Applies a filter to the rows that want it; where none does, nothing is computed."""

    def apply(score_BV: jax.Array) -> jax.Array:
        keep_BV = keep(score_BV, number_B) | ~wanted_B[:, None]
        return jnp.where(keep_BV, score_BV, -jnp.inf)

    return jax.lax.cond(wanted_B.any(), apply, lambda score_BV: score_BV, score_BV)


def _top_k(score_BV: jax.Array, top_k_B: jax.Array, *, halvings: int) -> jax.Array:
    return _at_least(score_BV, jnp.ones_like(score_BV), top_k_B.astype(jnp.float32), halvings)


def _top_p(score_BV: jax.Array, top_p_B: jax.Array, *, halvings: int) -> jax.Array:
    return _at_least(score_BV, jax.nn.softmax(score_BV, axis=-1), top_p_B, halvings)


def _at_least(
    score_BV: jax.Array, weight_BV: jax.Array, need_B: jax.Array, halvings: int
) -> jax.Array:
    """The fewest best scores whose weights add up to what is needed; all, if these do not.

    Args:
      score_BV: float32 of 0 or less.
      weight_BV: float32 of 0 or more.
      need_B: float32.
      halvings: of the range of thresholds.

    Returns:
      bool [B, V].
    """
    distance_BV = jax.lax.bitcast_convert_type(jnp.abs(score_BV), jnp.int32)

    def halve(_: int, bounds: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        low_B, high_B = bounds  # the smallest distance that suffices lies in low_B..high_B
        middle_B = low_B + (high_B - low_B) // 2
        sum_B = jnp.sum(jnp.where(distance_BV <= middle_B[:, None], weight_BV, 0.0), axis=-1)
        enough_B = sum_B >= need_B
        return jnp.where(enough_B, low_B, middle_B + 1), jnp.where(enough_B, middle_B, high_B)

    low_B = jnp.zeros(need_B.shape, jnp.int32)
    bounds = (low_B, jnp.full_like(low_B, _INFINITY))
    _, furthest_B = jax.lax.fori_loop(0, halvings, halve, bounds)
    return distance_BV <= furthest_B[:, None]
