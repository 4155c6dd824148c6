"""Backbone parameters: their shapes, their Hugging Face names, and loading them."""

import functools
import math
from pathlib import Path
from typing import Any

import jax
from flax.traverse_util import flatten_dict, unflatten_dict

from medusa_jax.config import LlamaConfig
from medusa_jax.errors import UserError
from medusa_jax.io.placement import place
from medusa_jax.io.tensor_files import stored_tensors

_TOP_MODULES = {"embed": "model.embed_tokens", "final_norm": "model.norm", "lm_head": "lm_head"}
_LAYER_MODULES = {
    ("attn_norm",): "input_layernorm",
    ("mlp_norm",): "post_attention_layernorm",
    ("attn", "q"): "self_attn.q_proj",
    ("attn", "k"): "self_attn.k_proj",
    ("attn", "v"): "self_attn.v_proj",
    ("attn", "o"): "self_attn.o_proj",
    ("attn", "q_norm"): "self_attn.q_norm",
    ("attn", "k_norm"): "self_attn.k_norm",
    ("mlp", "gate"): "mlp.gate_proj",
    ("mlp", "up"): "mlp.up_proj",
    ("mlp", "down"): "mlp.down_proj",
}


def param_shapes(config: LlamaConfig) -> dict[str, Any]:
    """Shapes of the backbone's parameters, nested as the parameters are.

    Matrices are (out, in), as Hugging Face stores them.

    Args:
      config: of the backbone.

    Returns:
      Nested dicts whose leaves are tuples of ints.
    """
    D, V = config.hidden_size, config.vocab_size
    shapes: dict[str, Any] = {"embed": {"weight": (V, D)}}
    for layer in range(config.num_layers):
        shapes[f"layers_{layer}"] = {
            "attn_norm": {"scale": (D,)},
            "attn": _attention_shapes(config),
            "mlp_norm": {"scale": (D,)},
            "mlp": _mlp_shapes(config),
        }
    shapes["final_norm"] = {"scale": (D,)}
    if not config.tie_embeddings:
        shapes["lm_head"] = {"weight": (V, D)}
    return shapes


def abstract_params(config: LlamaConfig, dtype: Any) -> dict[str, Any]:
    """The backbone's parameters as `jax.ShapeDtypeStruct`s of one dtype."""
    return jax.tree.map(
        lambda shape: jax.ShapeDtypeStruct(shape, dtype),
        param_shapes(config),
        is_leaf=lambda node: isinstance(node, tuple),
    )


def hf_keys(config: LlamaConfig) -> dict[tuple[str, ...], str]:
    """Path of every backbone parameter, e.g. ("layers_0", "attn", "q", "weight"), to its HF key."""
    return {path: _hf_key(path) for path in _flat_shapes(config)}


def load_safetensors(
    folder: Path, config: LlamaConfig, dtype: Any, *, sharding: Any = None
) -> dict[str, Any]:
    """Loads the backbone of a Hugging Face folder.

    Tensors are read, converted and put on the device one at a time, so that the host never holds
    much more than the result; of several processes, each reads the rows that its devices need.
    Keys that the backbone does not use are ignored (Medusa heads, old rotary buffers, the LM head
    of a tied model).

    Args:
      folder: with `model.safetensors`, or its shards and index, or (with torch) the same as
        `.bin`; any floating-point dtype.
      config: of the backbone.
      dtype: of the parameters to return.
      sharding: where to put them: None for the default device, one `jax.sharding.Sharding` for
        all, or nested dicts of them like the parameters.

    Returns:
      Nested dicts of `dtype` arrays shaped like `param_shapes(config)`.

    Raises:
      UserError: no, damaged or missing files; a tensor is missing or has the wrong shape or an
        unsupported dtype.
    """
    folder = Path(folder)
    stored = stored_tensors(folder)
    keys = hf_keys(config)
    for path, shape in _flat_shapes(config).items():
        _check(folder, stored, keys[path], shape)
    params = {}
    # Large tensors first: whatever a reader needs beside its result fits into what is still free.
    for path in sorted(keys, key=lambda path: -math.prod(stored[keys[path]].shape)):
        tensor = stored[keys[path]]
        read = functools.partial(tensor.read, dtype)
        params[path] = place(read, tensor.shape, _sharding_of(path, sharding))
    return unflatten_dict({path: params[path] for path in keys})


def _flat_shapes(config: LlamaConfig) -> dict[tuple[str, ...], Any]:
    return dict(flatten_dict(param_shapes(config)))


def _attention_shapes(config: LlamaConfig) -> dict[str, Any]:
    D, H = config.hidden_size, config.head_dim
    q_size, kv_size = config.num_heads * H, config.num_kv_heads * H
    shapes = {
        "q": _linear(q_size, D, config.qkv_bias),
        "k": _linear(kv_size, D, config.qkv_bias),
        "v": _linear(kv_size, D, config.qkv_bias),
        "o": _linear(D, q_size, config.o_bias),
    }
    if config.qk_norm:
        shapes |= {"q_norm": {"scale": (H,)}, "k_norm": {"scale": (H,)}}
    return shapes


def _mlp_shapes(config: LlamaConfig) -> dict[str, Any]:
    D, F = config.hidden_size, config.intermediate_size
    return {
        "gate": _linear(F, D, config.mlp_bias),
        "up": _linear(F, D, config.mlp_bias),
        "down": _linear(D, F, config.mlp_bias),
    }


def _linear(num_out: int, num_in: int, has_bias: bool) -> dict[str, tuple[int, ...]]:
    weight = {"weight": (num_out, num_in)}
    return weight | {"bias": (num_out,)} if has_bias else weight


def _hf_key(path: tuple[str, ...]) -> str:
    leaf = "bias" if path[-1] == "bias" else "weight"
    if path[0] in _TOP_MODULES:
        return f"{_TOP_MODULES[path[0]]}.{leaf}"
    layer = path[0].removeprefix("layers_")
    return f"model.layers.{layer}.{_LAYER_MODULES[path[1:-1]]}.{leaf}"


def _check(folder: Path, stored: dict[str, Any], key: str, shape: tuple[int, ...]) -> None:
    if key not in stored:
        hint = "download the model again"
        if key == "lm_head.weight":
            hint = "if it is tied to the embedding, set tie_word_embeddings in config.json"
        raise UserError(f"tensor {key} {shape} is missing in {folder}: {hint}")
    if stored[key].shape != shape:
        raise UserError(
            f"tensor {key} in {folder} has shape {stored[key].shape}, but config.json asks for "
            f"{shape}: take both from the same model"
        )


def _sharding_of(path: tuple[str, ...], sharding: Any) -> Any:
    for name in path:
        if not isinstance(sharding, dict):
            break
        sharding = sharding[name]
    return sharding
