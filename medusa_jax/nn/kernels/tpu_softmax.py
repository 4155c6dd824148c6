"""What the kernel of `medusa_jax.nn.kernels.tpu_attention` does with a block of slots."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

TOKENS = 8  # what new tokens are padded to: registers have 8 rows
_ROWS = 1024  # of scores at once, see `_together`


class Refs(NamedTuple):
    """What the kernel reads and writes, in the order of `pallas_call`; blocks of one row."""

    length: Any  # valid slots of each row
    first: Any  # block of slots that each row begins with
    number: Any  # of blocks that it reads
    q: Any
    k: Any
    v: Any
    cos: Any
    sin: Any
    mask: Any
    position: Any
    prefix_k: Any
    prefix_v: Any
    out: Any
    rotated: Any  # the keys
    top: Any  # the running softmax, as in `medusa_jax.nn.attention.PartialAttention`
    total: Any
    value: Any
    query: Any  # rotated; all heads that share a key head, one group of tokens below the other

    def lanes(self, head: int) -> slice:
        """Where a head lies in the last axis of new tokens."""
        H = self.value.shape[2]
        return slice(head * H, (head + 1) * H)


def attend(*refs: Any, group: int, slots: int, window: int | None, turned: bool) -> None:
    """One block of slots for some heads of some tokens; the first adds the new tokens' keys."""
    r = Refs(*refs)
    b, t, s = pl.program_id(0), pl.program_id(1), pl.program_id(3)

    @pl.when(s == 0)
    def _() -> None:
        _rotate(r, group, t)
        for heads in _together(r):
            _begin_with_new_tokens(r, group, heads)

    @pl.when(s < r.number[b])
    def _() -> None:
        begin = (r.first[b] + s) * slots
        for heads in _together(r):
            _add_prefix(r, group, heads, begin, r.length[b], window, turned)

    @pl.when(s == pl.num_programs(3) - 1)
    def _() -> None:
        tokens = r.value.shape[1] // group
        for head in range(r.value.shape[0]):
            out = (r.value[head] / r.total[head]).astype(r.out.dtype)
            for n in range(group):
                own = out[n * tokens : (n + 1) * tokens]
                r.out[0, :, r.lanes(head * group + n)] = own


def _rotate(r: Refs, group: int, block: jax.Array) -> None:
    """Queries of a block of tokens, and all new keys: `medusa_jax.nn.rope.apply_rope`."""
    tokens = r.q.shape[1]
    own = pl.ds(pl.multiple_of(block * tokens, TOKENS), tokens)
    angles = r.cos[0], r.sin[0]
    of_queries = r.cos[0, own], r.sin[0, own]
    for head in range(r.value.shape[0]):
        r.rotated[0, :, r.lanes(head)] = _rotated(r.k[0, :, r.lanes(head)], *angles)
        for n in range(group):
            lanes = r.lanes(head * group + n)
            query = _rotated(r.q[0, :, lanes], *of_queries)
            r.query[head, n * tokens : (n + 1) * tokens] = query


def _rotated(x_TH: jax.Array, cos_Th: jax.Array, sin_Th: jax.Array) -> jax.Array:
    half = cos_Th.shape[1]
    x = x_TH.astype(jnp.float32)
    turned = jnp.concatenate([x[:, half:], x[:, :half]], axis=1)
    cos = jnp.concatenate([cos_Th, cos_Th], axis=1)
    sin = jnp.concatenate([-sin_Th, sin_Th], axis=1)
    return (x * cos + turned * sin).astype(x_TH.dtype)


def _together(r: Refs) -> list[range]:
    """Heads that go from stage to stage together, so that none waits for its own product."""
    heads, rows, _ = r.value.shape
    size = max(1, _ROWS // rows)
    return [range(first, min(first + size, heads)) for first in range(0, heads, size)]


def _begin_with_new_tokens(r: Refs, group: int, heads: range) -> None:
    seen = _of_group(r.mask[0], group) != 0
    scores = []
    for head in heads:
        score = dot(r.query[head], r.rotated[0, :, r.lanes(head)], 1, 1)
        scores.append(jnp.where(seen, score * r.value.shape[2] ** -0.5, -jnp.inf))
    # Padding sees nothing; a finite floor keeps exp(-inf - top) at 0 instead of NaN.
    floor = jnp.finfo(jnp.float32).min
    tops = [jnp.maximum(score.max(axis=1, keepdims=True), floor) for score in scores]
    weights = [jnp.exp(score - top) for score, top in zip(scores, tops, strict=True)]
    for head, top, weight in zip(heads, tops, weights, strict=True):
        v = r.v[0, :, r.lanes(head)]
        r.top[head] = top
        r.total[head] = weight.sum(axis=1, keepdims=True)
        r.value[head] = dot(weight.astype(v.dtype), v, 1, 0)


def _add_prefix(
    r: Refs, group: int, heads: range, begin: jax.Array, length: jax.Array, window: int | None,
    turned: bool,
) -> None:  # fmt: skip
    """Adds a block of slots from `begin` on, of which those below `length` count."""
    _, rows, H = r.value.shape
    slot = begin + jax.lax.broadcasted_iota(jnp.int32, (rows, r.prefix_k.shape[3]), 1)
    seen = slot < length
    if window is not None:
        seen &= _of_group(r.position[0], group) - slot < window
    # Slots that are not valid may hold NaN, which a weight of 0 does not remove.
    shape = r.prefix_v.shape[2:]
    is_valid = begin + jax.lax.broadcasted_iota(jnp.int32, shape, int(turned)) < length
    scores = []
    for head in heads:
        k = r.prefix_k[0, head]
        score = dot(r.query[head].astype(k.dtype), k, 1, 0) * H**-0.5
        scores.append(jnp.where(seen, score, -jnp.inf))
    tops = [
        jnp.maximum(r.top[head], score.max(axis=1, keepdims=True))
        for head, score in zip(heads, scores, strict=True)
    ]
    weights = [jnp.exp(score - top) for score, top in zip(scores, tops, strict=True)]
    for head, top, weight in zip(heads, tops, weights, strict=True):
        v = r.prefix_v[0, head]
        v = jnp.where(is_valid, v.astype(jnp.float32), 0.0).astype(v.dtype)
        scale = jnp.exp(r.top[head] - top)
        r.top[head] = top
        r.total[head] = r.total[head] * scale + weight.sum(axis=1, keepdims=True)
        r.value[head] = r.value[head] * scale + dot(weight.astype(v.dtype), v, 1, int(turned))


def _of_group(x: jax.Array, group: int) -> jax.Array:
    return jnp.concatenate([x] * group, axis=0)


def dot(x: jax.Array, y: jax.Array, x_axis: int, y_axis: int) -> jax.Array:
    """The product of two matrices over an axis of each, in float32."""
    return jax.lax.dot_general(
        x,
        y,
        (((x_axis,), (y_axis,)), ((), ())),
        precision=jax.lax.Precision.HIGHEST if x.dtype == jnp.float32 else None,
        preferred_element_type=jnp.float32,
    )
