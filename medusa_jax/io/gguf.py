"""Loads a Llama-style model from one GGUF file."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.typing import DTypeLike

from medusa_jax.config import LlamaConfig
from medusa_jax.errors import UserError
from medusa_jax.io.gguf_config import eos_ids, read_config
from medusa_jax.io.gguf_file import GGUFFile, read_header, read_tensor

# Not parameters: the first is read into the configuration, the second is a leftover of early
# converters that llama.cpp ignores as well.
_NOT_PARAMETERS = ("rope_freqs.weight", "attn_rot_embd")


@dataclasses.dataclass(frozen=True)
class _Slot:
    """One parameter: where it goes, where it comes from and what it must look like.

    Attributes:
      keys: path in the parameter tree.
      name: of the tensor in the file.
      shape: expected.
      permuted_heads: number of heads whose rows are in llama.cpp's order; 0: rows are in order.
    """

    keys: tuple[str, ...]
    name: str
    shape: tuple[int, ...]
    permuted_heads: int = 0


def load_gguf(
    path: str | Path, dtype: DTypeLike
) -> tuple[LlamaConfig, dict[str, Any], tuple[int, ...]]:
    """Reads a GGUF file: architectures llama (Mistral included), qwen2 and qwen3.

    Tensors are dequantised and put on the default device one after the other, largest first, so
    that host memory never holds much more than the parameters themselves.

    Args:
      path: of the .gguf file.
      dtype: of every parameter, whatever the file stores.

    Returns:
      The configuration; the backbone's parameters as nested dicts, weights (out, in); the ids of
      the tokens that end a reply.

    Raises:
      UserError: the file is missing, truncated or no GGUF file; its architecture or one of its
        features is not supported; a tensor is missing, unexpected or of the wrong shape.
    """
    header = read_header(path)
    config = read_config(header)
    slots = list(_slots(config, header.metadata["general.architecture"] == "llama"))
    _check(header, slots)
    params: dict[str, Any] = {}
    for slot in sorted(slots, key=lambda slot: -int(np.prod(slot.shape))):
        value = read_tensor(header, slot.name, np.dtype(dtype))
        if slot.permuted_heads:
            value = _restore_rows(value, slot.permuted_heads)
        *parents, leaf = slot.keys
        branch = params
        for key in parents:
            branch = branch.setdefault(key, {})
        # Waiting lets the host's copy go before the next one is made.
        branch[leaf] = jax.block_until_ready(jax.device_put(value))
    return config, params, eos_ids(header)


def _restore_rows(value: np.ndarray, num_heads: int) -> np.ndarray:
    """Turns llama.cpp's row order of q and k into Hugging Face's.

    llama.cpp rotates neighbouring pairs (2i, 2i + 1), Hugging Face the halves (i, i + H/2), so the
    converter interleaves the halves of every head.
    """
    pairs = value.reshape(num_heads, -1, 2, *value.shape[1:])
    return pairs.swapaxes(1, 2).reshape(value.shape)


def _check(header: GGUFFile, slots: list[_Slot]) -> None:
    for slot in slots:
        info = header.tensors.get(slot.name)
        if info is None:
            raise UserError(f"{header.path} lacks the tensor {slot.name}: convert the model again")
        if info.shape != slot.shape:
            raise UserError(
                f"{header.path}: {slot.name} has shape {info.shape} instead of {slot.shape}: "
                "convert the model again"
            )
    unexpected = header.tensors.keys() - {slot.name for slot in slots}
    for name in sorted(unexpected):
        if not any(part in name for part in _NOT_PARAMETERS):
            raise UserError(
                f"{header.path} has the tensor {name}, which no supported architecture uses: "
                "use another model"
            )


def _slots(config: LlamaConfig, permuted: bool) -> Iterator[_Slot]:
    vocab, width = config.vocab_size, config.hidden_size
    yield _Slot(("embed", "weight"), "token_embd.weight", (vocab, width))
    for layer in range(config.num_layers):
        yield from _layer_slots(config, layer, permuted)
    yield _Slot(("final_norm", "scale"), "output_norm.weight", (width,))
    if not config.tie_embeddings:
        yield _Slot(("lm_head", "weight"), "output.weight", (vocab, width))


def _layer_slots(config: LlamaConfig, layer: int, permuted: bool) -> Iterator[_Slot]:
    width, hidden = config.hidden_size, config.intermediate_size
    heads, kv_heads = config.num_heads, config.num_kv_heads
    q_rows, kv_rows = heads * config.head_dim, kv_heads * config.head_dim
    place, source = f"layers_{layer}", f"blk.{layer}"
    for part, norm in (("attn", "attn_norm"), ("mlp", "ffn_norm")):
        yield _Slot((place, f"{part}_norm", "scale"), f"{source}.{norm}.weight", (width,))
    if config.qk_norm:
        for norm in ("q_norm", "k_norm"):
            keys = (place, "attn", norm, "scale")
            yield _Slot(keys, f"{source}.attn_{norm}.weight", (config.head_dim,))
    linear = (
        ("attn", "q", "attn_q", (q_rows, width), config.qkv_bias, heads * permuted),
        ("attn", "k", "attn_k", (kv_rows, width), config.qkv_bias, kv_heads * permuted),
        ("attn", "v", "attn_v", (kv_rows, width), config.qkv_bias, 0),
        ("attn", "o", "attn_output", (width, q_rows), config.o_bias, 0),
        ("mlp", "gate", "ffn_gate", (hidden, width), config.mlp_bias, 0),
        ("mlp", "up", "ffn_up", (hidden, width), config.mlp_bias, 0),
        ("mlp", "down", "ffn_down", (width, hidden), config.mlp_bias, 0),
    )
    for part, leaf, name, shape, bias, heads_moved in linear:
        keys = (place, part, leaf)
        yield _Slot((*keys, "weight"), f"{source}.{name}.weight", shape, heads_moved)
        if bias:
            yield _Slot((*keys, "bias"), f"{source}.{name}.bias", shape[:1], heads_moved)
