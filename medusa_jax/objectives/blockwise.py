"""Losses over long sequences without the logits of more than a few positions at a time."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_derivatives import CustomVJPPrimal

from medusa_jax.objectives.labels import IGNORE

# (params, inputs [B, t, ...], labels [B, t, ...]) -> (a scalar, a tree of more), sums over B and t.
Loss = Callable[[Any, Any, jax.Array], tuple[jax.Array, Any]]


def loss_over_time(
    loss: Loss, params: Any, inputs: Any, labels: jax.Array, block: int
) -> tuple[jax.Array, Any]:
    """`loss(params, inputs, labels)`, computed on at most `block` time steps at once.

    Logits of all heads at all positions never exist: with M heads they would be M + 1 times the
    largest array of ordinary training. A block's gradient is computed right after its loss, while
    its logits are there; computing them again in the backward pass would take a third product with
    the vocabulary's matrix where two do. The time axis is cut, not the batch, which stays sharded.

    Example: one row of T = 301 tokens, D = 512, M = 4 heads, V = 32000 and block = 128. Three
    blocks are needed; equal ones have 101 time steps, so two positions are appended whose inputs
    are 0 and whose labels are IGNORE: they add nothing. Then, three times over:
      inputs [1, 101, 512] and labels [1, 101, 5] of the block
      -> logits [1, 101, 5, 32000] in float32: 65 MB (193 MB for the whole row)
      -> the sums, added to those so far; gradients of the parameters, added likewise; gradient of
         the block's inputs [1, 101, 512], kept
      -> the logits are gone before the next block begins.
    The backward pass has nothing left to do but multiply these gradients by the incoming scalar.

    Args:
      loss: see `Loss`. It closes over no array. Only its scalar can be differentiated. A position
        whose labels are IGNORE must add nothing to any sum.
      params: tree of arrays of any shapes.
      inputs: tree of [B, T, ...].
      labels: int [B, T, ...].
      block: time steps, at least 1.

    Returns:
      The sums over all T.
    """
    length = labels.shape[1]
    count = -(-length // block)
    size = -(-length // count)

    def cut(x: jax.Array, fill: int) -> jax.Array:
        """[B, T, ...] -> [count, B, size, ...]."""
        padding = [(0, count * size - length if axis == 1 else 0) for axis in range(x.ndim)]
        x = jnp.pad(x, padding, constant_values=fill)
        return x.reshape(x.shape[0], count, size, *x.shape[2:]).swapaxes(0, 1)

    blocks = jax.tree.map(lambda x: cut(x, 0), inputs), cut(labels, IGNORE)
    return _over_blocks(loss, params, blocks)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _over_blocks(loss: Loss, params: Any, blocks: Any) -> tuple[jax.Array, Any]:
    return sum_over_blocks(lambda block: (loss(params, *block), None), blocks)[0]


def _forward(loss: Loss, params: Any, blocks: Any) -> tuple[Any, Any]:
    """The sums, and the gradients of those leaves that somebody wants gradients of."""
    wanted, fixed = _split(params)

    def gradient(block: Any) -> tuple[Any, Any]:
        wanted_block, fixed_block = block

        def of_wanted(wanted: Any, wanted_block: Any) -> tuple[jax.Array, Any]:
            return loss(_merge(wanted, fixed), *_merge(wanted_block, fixed_block))

        sums, (grads, grads_block) = jax.value_and_grad(of_wanted, (0, 1), has_aux=True)(
            wanted, wanted_block
        )
        return (sums, grads), grads_block

    (sums, grads), grads_blocks = sum_over_blocks(gradient, _split(blocks))
    return sums, (grads, grads_blocks)


def _backward(loss: Loss, grads: Any, cotangents: Any) -> Any:
    del loss
    scale = cotangents[0]
    return jax.tree.map(lambda x: scale.astype(x.dtype) * x, grads)


_over_blocks.defvjp(_forward, _backward, symbolic_zeros=True)


def sum_over_blocks(function: Callable[[Any], tuple[Any, Any]], blocks: Any) -> tuple[Any, Any]:
    """Of function(block) = (sums, more): the sums added up, and what more there is, stacked."""
    first = jax.tree.map(lambda x: x[0], blocks)
    shapes, _ = jax.eval_shape(function, first)
    zero = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)

    def add(total: Any, block: Any) -> tuple[Any, Any]:
        sums, more = function(block)
        return jax.tree.map(jnp.add, total, sums), more

    return jax.lax.scan(add, zero, blocks)


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
