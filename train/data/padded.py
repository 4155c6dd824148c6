"""Conversations one per row, padded, and one forward pass of the backbone over them."""

import functools
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from medusa_jax import MedusaLM
from medusa_jax.chat import Example
from medusa_jax.gpu import product_options
from medusa_jax.mesh import mesh_of
from medusa_jax.nn.llama import Llama, causal_mask
from medusa_jax.objectives.labels import shift_labels
from medusa_jax.pin import Pin
from medusa_jax.sharding import batch_sharding, replicated

_MIN_WIDTH = 64


def batches_of_like_length(examples: Sequence[Example], tokens: int) -> Iterator[list[Example]]:
    """Groups of one padded width each, the shortest first; equal lengths stay in their order.

    Args:
      examples: tokenized conversations.
      tokens: the most that a batch has, padding included, unless one conversation has more.
    """
    batch: list[Example] = []
    for example in sorted(examples, key=lambda example: len(example.token_T)):
        if batch:
            width = _width(len(example.token_T))
            full = len(batch) >= max(tokens // width, 1)
            if full or width != _width(len(batch[0].token_T)):
                yield batch
                batch = []
        batch.append(example)
    if batch:
        yield batch


def in_order(examples: Sequence[Example], found: Sequence[Any]) -> list[Any]:
    """What was found for each conversation of these batches, in the order of `examples`."""
    order = sorted(range(len(examples)), key=lambda i: len(examples[i].token_T))
    by_number = dict(zip(order, found, strict=True))
    return [by_number[i] for i in range(len(examples))]


def pad(batch: Sequence[Example], tokens: int) -> dict[str, np.ndarray]:
    """Pads one of these batches to one of few shapes, so that few programs are compiled.

    Args:
      batch: at least one conversation.
      tokens: see `batches_of_like_length`.

    Returns:
      {"token" int32, "is_label" bool, "segment" int32 (1, and 0 for padding)}, each [B, T]. Rows
      beyond the batch are all padding.
    """
    width = _width(max(len(example.token_T) for example in batch))
    rows = min(1 << (len(batch) - 1).bit_length(), max(tokens // width, 1))
    shape = (rows, width)
    out = {
        "token": np.zeros(shape, np.int32),
        "is_label": np.zeros(shape, bool),
        "segment": np.zeros(shape, np.int32),
    }
    for row, example in enumerate(batch):
        length = len(example.token_T)
        out["token"][row, :length] = example.token_T
        out["is_label"][row, :length] = example.is_label_T
        out["segment"][row, :length] = 1
    return out


def following_tokens(token: np.ndarray, count: int) -> np.ndarray:
    """Some tokens after each: [..., T] -> [..., T, count].

    What wraps around is beyond the end of a row: no head that sees it has a label.
    """
    return np.stack([np.roll(token, -j, axis=-1) for j in range(1, count + 1)], axis=-1)


def _width(length: int) -> int:
    """Next of 64, 96, 128, 192, ...: a third of padding at most."""
    power = 1 << max(length - 1, _MIN_WIDTH - 1).bit_length()
    return power * 3 // 4 if max(length, _MIN_WIDTH + 1) <= power * 3 // 4 else power


def hidden_and_labels(
    lm: MedusaLM, num_heads: int, batch: dict[str, np.ndarray]
) -> tuple[jax.Array, jax.Array]:
    """What the heads see at every position, and the labels they must predict.

    A model on a mesh runs other rows on each of the devices along "data" and "fsdp". Where several
    processes share the mesh, all make the same calls.

    Args:
      lm: the model; its heads do not matter.
      num_heads: M.
      batch: see `pad`.

    Returns:
      hidden_BTD in the compute dtype, and labels_BTJ (see `shift_labels`); whole on every device.
    """
    mesh, rows = mesh_of(lm.params), len(batch["token"])
    pin = None
    if mesh is not None:
        pin, batch = Pin(mesh), spread_rows(mesh, batch)
    llama = Llama(lm.config, jnp.dtype(lm.dtype), pin=pin)
    return _program(mesh, lm.dtype)(llama, num_heads, rows, lm.params, batch)


def spread_rows(mesh: Mesh, arrays: Any) -> Any:
    """Puts arrays that every process has, rows first, on the devices that each row belongs to.

    Zeros fill them up to as many rows as the devices along "data" and "fsdp" can share.
    """
    parts = mesh.shape["data"] * mesh.shape["fsdp"]

    def spread(x: np.ndarray) -> jax.Array:
        x = np.pad(x, [(0, -len(x) % parts), *[(0, 0)] * (x.ndim - 1)])
        sharding = batch_sharding(mesh, x.ndim)
        return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])

    return jax.tree.map(spread, arrays)


@functools.cache
def _program(mesh: Mesh | None, dtype: str) -> Any:
    options: dict[str, Any] = {"compiler_options": product_options(dtype)}
    if mesh is not None:
        options["out_shardings"] = replicated(mesh)
    return jax.jit(_forward, static_argnums=(0, 1, 2), **options)


def _forward(
    llama: Llama, num_heads: int, rows: int, params: dict[str, Any], batch: dict[str, jax.Array]
) -> tuple[jax.Array, jax.Array]:
    token_BT = batch["token"]
    T = token_BT.shape[1]
    position_BT = jnp.broadcast_to(jnp.arange(T, dtype=jnp.int32)[None], token_BT.shape)
    hidden: Any = llama.apply({"params": params}, token_BT, position_BT, causal_mask(T))[0]
    labels = shift_labels(token_BT, batch["is_label"], batch["segment"], num_heads)
    return hidden[:rows], labels[:rows]
