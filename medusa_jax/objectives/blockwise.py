"""Losses over long sequences without the logits of more than a few positions at a time."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_derivatives import CustomVJPPrimal

Loss = Callable[[Any, Any], tuple[jax.Array, Any]]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 3))
def loss_over_time(loss: Loss, params: Any, arrays: Any, block: int) -> tuple[jax.Array, Any]:
    """`loss(params, arrays)`, computed on `block` time steps at once.

    Logits of all heads at all positions never exist: with M heads they would be M + 1 times the
    largest array of ordinary training. A block's gradient is computed right behind its loss, while
    its logits are there; to compute them again in the backward pass would take a third product with
    the vocabulary's matrix where two do. The time axis is cut, not the batch, which stays sharded.

    Args:
      loss: (params, arrays [B, t, ...]) -> (a scalar, a tree of more), all of them sums over B and
        t. It closes over no array. Only the scalar can be differentiated.
      params: tree of arrays of any shapes.
      arrays: tree of [B, T, ...].
      block: time steps per block, at least 1.

    Returns:
      The sums over all T.
    """
    return _over_time(lambda part: (loss(params, part), None), arrays, block)[0]


def _forward(loss: Loss, params: Any, arrays: Any, block: int) -> tuple[Any, Any]:
    """The sums, and the gradients of those leaves that somebody wants gradients of."""
    wanted, fixed = _split(params)
    wanted_arrays, fixed_arrays = _split(arrays)

    def of_wanted(wanted: Any, wanted_part: Any, fixed_part: Any) -> tuple[jax.Array, Any]:
        return loss(_merge(wanted, fixed), _merge(wanted_part, fixed_part))

    def gradient(part: Any) -> tuple[Any, Any]:
        sums, (grads, grads_part) = jax.value_and_grad(of_wanted, (0, 1), has_aux=True)(
            wanted, *part
        )
        return (sums, grads), grads_part

    (sums, grads), grads_arrays = _over_time(gradient, (wanted_arrays, fixed_arrays), block)
    return sums, (grads, grads_arrays)


def _backward(loss: Loss, block: int, grads: Any, cotangents: Any) -> Any:
    del loss, block
    scale = cotangents[0]
    return jax.tree.map(lambda x: scale.astype(x.dtype) * x, grads)


loss_over_time.defvjp(_forward, _backward, symbolic_zeros=True)


def _split(tree: Any) -> tuple[Any, Any]:
    """Of a tree of CustomVJPPrimal the leaves to differentiate and the others; None elsewhere."""

    def leaves(perturbed: bool) -> Any:
        return jax.tree.map(
            lambda x: x.value if x.perturbed == perturbed else None,
            tree,
            is_leaf=lambda x: isinstance(x, CustomVJPPrimal),
        )

    return leaves(True), leaves(False)


def _merge(first: Any, second: Any) -> Any:
    return jax.tree.map(
        lambda a, b: b if a is None else a, first, second, is_leaf=lambda x: x is None
    )


def _over_time(function: Callable[[Any], tuple[Any, Any]], arrays: Any, block: int) -> Any:
    """Of function(part) = (sums, arrays [B, t, ...]) the sums and arrays over all parts."""
    length = jax.tree.leaves(arrays)[0].shape[1]
    whole = length - length % block
    sums, kept = [], []
    if whole:
        blocks = jax.tree.map(lambda x: _cut(x[:, :whole], block), arrays)
        zero = jax.tree.map(
            lambda x: jnp.zeros(x.shape, x.dtype),
            jax.eval_shape(function, jax.tree.map(lambda x: x[0], blocks))[0],
        )

        def add(total, part):
            own, arrays = function(part)
            return jax.tree.map(jnp.add, total, own), arrays

        total, stacked = jax.lax.scan(add, zero, blocks)
        sums.append(total)
        kept.append(jax.tree.map(_join, stacked))
    if whole < length:
        total, rest = function(jax.tree.map(lambda x: x[:, whole:], arrays))
        sums.append(total)
        kept.append(rest)
    return (
        jax.tree.map(lambda *values: sum(values[1:], start=values[0]), *sums),
        jax.tree.map(lambda *values: jnp.concatenate(values, axis=1), *kept),
    )


def _cut(x: jax.Array, block: int) -> jax.Array:
    """[B, T, ...] -> [T / block, B, block, ...]."""
    B, T = x.shape[:2]
    return x.reshape(B, T // block, block, *x.shape[2:]).swapaxes(0, 1)


def _join(x: jax.Array) -> jax.Array:
    """[T / block, B, block, ...] -> [B, T, ...]."""
    count, B, block = x.shape[:3]
    return x.swapaxes(0, 1).reshape(B, count * block, *x.shape[3:])
