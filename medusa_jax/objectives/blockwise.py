"""Losses over long sequences without the logits of more than a few positions at a time."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_derivatives import CustomVJPPrimal

from medusa_jax.objectives.labels import IGNORE
from medusa_jax.objectives.rows import Rows

# (params, inputs [B, t, ...], labels [B, t, ...]) -> (a scalar, a tree of more, a tree of [B, t,
# ...]): the first two are sums over B and t.
Loss = Callable[[Any, Any, jax.Array], tuple[jax.Array, Any, Any]]

_ALL = Rows()


def loss_over_time(
    loss: Loss, params: Any, inputs: Any, labels: jax.Array, block: int, rows: Rows = _ALL
) -> tuple[jax.Array, Any, Any]:
    """`loss(params, inputs, labels)`, computed on at most `block` time steps at once.

    Logits at all positions never exist: with M heads they would be M + 1 times the largest array of
    ordinary training. A block's gradient is computed right after its loss, while its logits are
    there; computing them again in the backward pass would take a third product with the
    vocabulary's matrix where two suffice. The time axis is cut, not the batch, which stays sharded.

    On a mesh every device runs the whole loop on its own rows: matrices are gathered before it, and
    gradients, which a device adds up by itself, are summed over the devices after it.

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
      params: tree of arrays of any shapes; on a mesh, their paths say how they are sharded.
      inputs: tree of [B, T, ...].
      labels: int [B, T, ...].
      block: time steps, at least 1.
      rows: the devices that have the rows.

    Returns:
      The sums over all T, and what there is per position, [B, T, ...].
    """
    return _over_time(loss, block, rows, params, (inputs, labels))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _over_time(
    loss: Loss, block: int, rows: Rows, params: Any, positions: Any
) -> tuple[jax.Array, Any, Any]:
    def run(_: None, params: Any, positions: Any) -> Any:
        def on_block(part: Any) -> Any:
            total, sums, kept = loss(params, *part)
            return (total, sums), kept

        inputs, labels = positions
        cuts = _Cuts(labels.shape[1], block)
        sums, kept = sum_over_blocks(on_block, (cuts.cut(inputs), cuts.cut(labels, IGNORE)))
        return sums, None, cuts.joined(kept)

    (total, sums), _, kept = rows.run(run, None, params, positions)
    return total, sums, kept


def _forward(loss: Loss, block: int, rows: Rows, params: Any, positions: Any) -> tuple[Any, Any]:
    """The sums, and the gradients of those leaves for which they are wanted."""
    (wanted_params, fixed_params), positions = _split(params), _split(positions)
    dtypes = jax.tree.map(lambda x: jnp.asarray(x).dtype, wanted_params)

    def run(wanted: Any, fixed: Any, positions: Any) -> Any:
        def gradient(part: Any) -> Any:
            wanted_part, fixed_part = part

            def of_wanted(wanted: Any, wanted_part: Any) -> Any:
                total, *more = loss(_merge(wanted, fixed), *_merge(wanted_part, fixed_part))
                return total, more

            # Gradients have the dtypes of their parameters. The matrices are widened here, where
            # the compiler sees that they are rounded again, and not before the loop.
            wide = jax.tree.map(lambda x, dtype: jnp.asarray(x, dtype), wanted, dtypes)
            gradient = jax.value_and_grad(of_wanted, (0, 1), has_aux=True)
            (total, (sums, kept)), (grads, grads_part) = gradient(wide, wanted_part)
            return ((total, sums), grads), (kept, grads_part)

        wanted_part, (fixed_inputs, labels) = positions
        cuts = _Cuts(labels.shape[1], block)
        blocks = cuts.cut(wanted_part), (cuts.cut(fixed_inputs), cuts.cut(labels, IGNORE))
        (sums, grads), more = sum_over_blocks(gradient, blocks)
        return sums, grads, cuts.joined(more)

    (total, sums), grads, (kept, grads_positions) = rows.run(
        run, wanted_params, fixed_params, positions
    )
    return (total, sums, kept), (grads, grads_positions)


def _backward(loss: Loss, block: int, rows: Rows, grads: Any, cotangents: Any) -> Any:
    del loss, block, rows
    scale = cotangents[0]
    return jax.tree.map(lambda x: scale.astype(x.dtype) * x, grads)


_over_time.defvjp(_forward, _backward, symbolic_zeros=True)


@dataclasses.dataclass(frozen=True)
class _Cuts:
    """Cuts [B, T, ...] into equal blocks of at most `block` time steps, padded at the end."""

    length: int
    block: int

    def cut(self, tree: Any, fill: int = 0) -> Any:
        """Every [B, T, ...] -> [count, B, size, ...]."""
        count = -(-self.length // self.block)
        size = -(-self.length // count)

        def cut(x: jax.Array) -> jax.Array:
            padding = [(0, count * size - self.length if i == 1 else 0) for i in range(x.ndim)]
            x = jnp.pad(x, padding, constant_values=fill)
            return x.reshape(x.shape[0], count, size, *x.shape[2:]).swapaxes(0, 1)

        return jax.tree.map(cut, tree)

    def joined(self, tree: Any) -> Any:
        """Every [count, B, size, ...] -> [B, T, ...], without the padding."""

        def joined(x: jax.Array) -> jax.Array:
            x = x.swapaxes(0, 1)
            return x.reshape(x.shape[0], -1, *x.shape[3:])[:, : self.length]

        return jax.tree.map(joined, tree)


def sum_over_blocks(function: Callable[[Any], tuple[Any, Any]], blocks: Any) -> tuple[Any, Any]:
    """For function(block) = (sums, more): the sums added up, and `more` stacked."""
    first = jax.tree.map(lambda x: x[0], blocks)
    shapes, _ = jax.eval_shape(function, first)
    zero = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)

    def add(total: Any, block: Any) -> tuple[Any, Any]:
        sums, more = function(block)
        return jax.tree.map(jnp.add, total, sums), more

    return jax.lax.scan(add, zero, blocks)


def _split(tree: Any) -> tuple[Any, Any]:
    """The leaves of a tree of CustomVJPPrimal to differentiate, and the others; None elsewhere."""

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
