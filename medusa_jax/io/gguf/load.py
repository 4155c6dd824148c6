"""Loads a Llama-style model from one GGUF file."""

import math
from pathlib import Path
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.sharding import Mesh
from jax.typing import DTypeLike

from medusa_jax.config import LlamaConfig
from medusa_jax.errors import UserError
from medusa_jax.io.gguf.config import eos_ids, read_config
from medusa_jax.io.gguf.file import GGUFFile, read_header, read_tensor
from medusa_jax.io.hf.weights import abstract_params
from medusa_jax.io.placement import kept, place_value
from medusa_jax.nn.params import backbone_params, by_path
from medusa_jax.sharding import param_shardings

# Not parameters: the first is read into the configuration, the second is a leftover of early
# converters that llama.cpp ignores as well.
_NOT_PARAMETERS = ("rope_freqs.weight", "attn_rot_embd")


def load_gguf(
    path: str | Path, dtype: DTypeLike, mesh: Mesh | None = None, quantize: str = "none"
) -> tuple[LlamaConfig, dict[str, Any], tuple[int, ...]]:
    """Reads a GGUF file: architectures llama (Mistral included), qwen2 and qwen3.

    Tensors are dequantised and put on their devices one after the other, largest first, so that
    host memory never holds much more than the parameters themselves.

    Args:
      path: of the .gguf file.
      dtype: of every parameter, whatever the file stores.
      mesh: where to put them, by `medusa_jax.sharding.param_shardings`; None: the default device.
      quantize: see `medusa_jax.io.hf.weights.load_safetensors`.

    Returns:
      The configuration; the backbone's parameters, nested like
      `medusa_jax.nn.params.backbone_params`; the ids of the tokens that end a reply.

    Raises:
      UserError: the file is missing, truncated or no GGUF file; its architecture or one of its
        features is not supported; a tensor is missing, unexpected or of the wrong shape.
    """
    header = read_header(path)
    config = read_config(header)
    records = by_path(backbone_params(config))
    _check(header, {record.names["gguf"]: record.shape for record in records.values()})
    permuted = _permuted_heads(config, header.metadata["general.architecture"])
    shardings = _flat_shardings(config, mesh)
    params = {}
    for keys in sorted(records, key=lambda keys: -math.prod(records[keys].shape)):
        value = read_tensor(header, records[keys].names["gguf"], np.dtype(dtype))
        if num_heads := permuted.get(keys[1:-1]):
            value = _restore_rows(value, num_heads)
        params[keys] = kept(keys, place_value(value, shardings.get(keys)), quantize)
        del value  # before the next one is made
    return config, unflatten_dict(params), eos_ids(header)


def _flat_shardings(config: LlamaConfig, mesh: Mesh | None) -> dict[tuple[str, ...], Any]:
    if mesh is None:
        return {}
    # The dtype does not matter.
    return dict(flatten_dict(param_shardings(mesh, abstract_params(config, np.float32))))


def _permuted_heads(config: LlamaConfig, architecture: str) -> dict[tuple[str, ...], int]:
    """Modules whose rows are in llama.cpp's order, with their number of heads."""
    if architecture != "llama":
        return {}
    return {("attn", "q"): config.num_heads, ("attn", "k"): config.num_kv_heads}


def _restore_rows(value: np.ndarray, num_heads: int) -> np.ndarray:
    """Turns llama.cpp's row order of q and k into Hugging Face's.

    llama.cpp rotates neighbouring pairs (2i, 2i + 1), Hugging Face the halves (i, i + H/2), so the
    converter interleaves the halves of every head.
    """
    pairs = value.reshape(num_heads, -1, 2, *value.shape[1:])
    return pairs.swapaxes(1, 2).reshape(value.shape)


def _check(header: GGUFFile, shapes: dict[str, tuple[int, ...]]) -> None:
    for name, shape in shapes.items():
        info = header.tensors.get(name)
        if info is None:
            raise UserError(f"{header.path} lacks the tensor {name}: convert the model again")
        if info.shape != shape:
            raise UserError(
                f"{header.path}: {name} has shape {info.shape} instead of {shape}: "
                "convert the model again"
            )
    for name in sorted(header.tensors.keys() - shapes.keys()):
        if not any(part in name for part in _NOT_PARAMETERS):
            raise UserError(
                f"{header.path} has the tensor {name}, which no supported architecture uses: "
                "use another model"
            )
