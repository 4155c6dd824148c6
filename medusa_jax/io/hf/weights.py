"""Backbone parameters: their shapes, their Hugging Face names, and loading them."""

import functools
import math
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from medusa_jax.config import LlamaConfig
from medusa_jax.errors import UserError
from medusa_jax.io.placement import kept, place
from medusa_jax.io.tensor_files import stored_tensors
from medusa_jax.nn.params import backbone_params, by_path

_EMBEDDING, _LM_HEAD = "model.embed_tokens.weight", "lm_head.weight"
_ROWS = 1024  # of the vocabulary, compared at a time


def abstract_params(config: LlamaConfig, dtype: Any) -> dict[str, Any]:
    """The backbone's parameters as `jax.ShapeDtypeStruct`s of one dtype, in nested dicts.

    Matrices are (out, in), as Hugging Face stores them.
    """
    return jax.tree.map(
        lambda record: jax.ShapeDtypeStruct(record.shape, dtype), backbone_params(config)
    )


def hf_keys(config: LlamaConfig) -> dict[tuple[str, ...], str]:
    """Path of every backbone parameter, e.g. ("layers_0", "attn", "q", "weight"), to its HF key."""
    return {path: record.names["hf"] for path, record in by_path(backbone_params(config)).items()}


def load_safetensors(
    folder: Path,
    config: LlamaConfig,
    dtype: Any,
    *,
    shardings: dict[str, Any] | None = None,
    quantize: str = "none",
) -> dict[str, Any]:
    """Loads the backbone of a Hugging Face folder.

    Tensors are read, converted and put on the device one at a time, so that the host never holds
    much more than the result. With several processes, each reads the rows that its devices need.
    Keys that the backbone does not use are ignored (Medusa heads, old rotary buffers, the LM head
    of a tied model if it is the embedding).

    Args:
      folder: with `model.safetensors`, or its shards and index, or (with torch) the same as
        `.bin`; any floating-point dtype.
      config: of the backbone.
      dtype: of the parameters to return.
      shardings: where to put them, nested dicts like the parameters; None: the default device.
      quantize: "none", or "int8": matrices in 8 bits (`medusa_jax.nn.quantize.Int8`), one after the
        other, so that no device ever holds much more than the result.

    Returns:
      Arrays like `abstract_params(config, dtype)`.

    Raises:
      UserError: no, damaged or missing files; a tensor is missing or has the wrong shape or an
        unsupported dtype, or an LM head that is said to be tied differs from the embedding.
    """
    folder = Path(folder)
    stored = stored_tensors(folder)
    records = by_path(backbone_params(config))
    for record in records.values():
        _check(folder, stored, record.names["hf"], record.shape)
    if config.tie_embeddings and _LM_HEAD in stored:
        _check_tied(folder, stored)
    placed = flatten_dict(shardings or {})
    params = {}
    # Large tensors first: whatever a reader needs besides its result fits into what is still free.
    for path in sorted(records, key=lambda path: -math.prod(records[path].shape)):
        tensor = stored[records[path].names["hf"]]
        read = functools.partial(tensor.read, dtype)
        value = place(read, tensor.shape, placed.get(path))
        params[path] = kept(path, value, quantize)
    return unflatten_dict({path: params[path] for path in records})


def _check(folder: Path, stored: dict[str, Any], key: str, shape: tuple[int, ...]) -> None:
    if key not in stored:
        hint = "download the model again"
        if key == _LM_HEAD:
            hint = "if it is tied to the embedding, set tie_word_embeddings in config.json"
        raise UserError(f"tensor {key} {shape} is missing in {folder}: {hint}")
    if stored[key].shape != shape:
        raise UserError(
            f"tensor {key} in {folder} has shape {stored[key].shape}, but config.json asks for "
            f"{shape}: take both from the same model"
        )


def _check_tied(folder: Path, stored: dict[str, Any]) -> None:
    """Refuses an LM head that is said to be the embedding and is not: which one is meant?"""
    embedding, lm_head = stored[_EMBEDDING], stored[_LM_HEAD]
    same = embedding.shape == lm_head.shape
    for start in range(0, embedding.shape[0], _ROWS) if same else ():
        rows = slice(start, start + _ROWS)
        parts = (tensor.read(np.float32, rows) for tensor in (embedding, lm_head))
        same = same and np.array_equal(*parts, equal_nan=True)
    if not same:
        raise UserError(
            f"the LM head in {folder} is not the embedding, though config.json ties them: set "
            "tie_word_embeddings to false there, or remove the LM head"
        )
