"""One record per parameter: its shape, its axes, how it starts and what checkpoints call it.

The networks declare their parameters from these records, and abstract parameters, shardings,
loaders and exporters follow them: a new parameter is one line here and its use in the network.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
from flax.traverse_util import flatten_dict

from medusa_jax.config import LlamaConfig, MedusaConfig

_NORMAL = jax.nn.initializers.normal(0.02)
_ZEROS, _ONES = jax.nn.initializers.zeros, jax.nn.initializers.ones


@dataclasses.dataclass(frozen=True)
class Param:
    """What there is to know about a parameter before it has a value.

    Attributes:
      shape: of a matrix: (..., out, in), as Hugging Face stores it.
      axes: logical name of each dimension, which `medusa_jax.sharding` maps to the axes of a mesh;
        None: never split.
      init: (key, shape, dtype) -> a fresh value.
      names: by kind of checkpoint. The backbone has "hf" and, for GGUF files, "gguf". The heads
        have "medusa" (formats A, B and C) and "vllm": one tensor per head and block, so that
        "{head}" and "{layer}" stand for their numbers, and a kind that cannot hold the parameter
        is absent.
    """

    shape: tuple[int, ...]
    axes: tuple[str | None, ...]
    init: Callable[..., jax.Array]
    names: Mapping[str, str]


def backbone_params(config: LlamaConfig) -> dict[str, Any]:
    """Records of the backbone's parameters, nested as the parameters are.

    Args:
      config: of the backbone; a tied one has no "lm_head".
    """
    words = (config.vocab_size, config.hidden_size), ("vocab", "embed")
    params: dict[str, Any] = {"embed": _linear(*words, False, "model.embed_tokens", "token_embd")}
    for layer in range(config.num_layers):
        params[f"layers_{layer}"] = layer_params(config, layer)
    params["final_norm"] = _norm(config.hidden_size, "model.norm", "output_norm")
    if not config.tie_embeddings:
        params["lm_head"] = _linear(*words, False, "lm_head", "output")
    return params


def layer_params(config: LlamaConfig, layer: int = 0) -> dict[str, Any]:
    """Records of one decoder layer; the layers differ in nothing but the names in checkpoints."""
    c, hf, gguf = config, f"model.layers.{layer}", f"blk.{layer}"
    D, F, H = c.hidden_size, c.intermediate_size, c.head_dim
    out_of, into = ("heads", "embed"), ("embed", "heads")
    q, kv, o = (c.num_heads * H, D), (c.num_kv_heads * H, D), (D, c.num_heads * H)
    attn = {
        "q": _linear(q, out_of, c.qkv_bias, f"{hf}.self_attn.q_proj", f"{gguf}.attn_q"),
        "k": _linear(kv, out_of, c.qkv_bias, f"{hf}.self_attn.k_proj", f"{gguf}.attn_k"),
        "v": _linear(kv, out_of, c.qkv_bias, f"{hf}.self_attn.v_proj", f"{gguf}.attn_v"),
        "o": _linear(o, into, c.o_bias, f"{hf}.self_attn.o_proj", f"{gguf}.attn_output"),
    }
    if c.qk_norm:
        attn["q_norm"] = _norm(H, f"{hf}.self_attn.q_norm", f"{gguf}.attn_q_norm")
        attn["k_norm"] = _norm(H, f"{hf}.self_attn.k_norm", f"{gguf}.attn_k_norm")
    up, down = ("mlp", "embed"), ("embed", "mlp")
    mlp = {
        "gate": _linear((F, D), up, c.mlp_bias, f"{hf}.mlp.gate_proj", f"{gguf}.ffn_gate"),
        "up": _linear((F, D), up, c.mlp_bias, f"{hf}.mlp.up_proj", f"{gguf}.ffn_up"),
        "down": _linear((D, F), down, c.mlp_bias, f"{hf}.mlp.down_proj", f"{gguf}.ffn_down"),
    }
    return {
        "attn_norm": _norm(D, f"{hf}.input_layernorm", f"{gguf}.attn_norm"),
        "attn": attn,
        "mlp_norm": _norm(D, f"{hf}.post_attention_layernorm", f"{gguf}.ffn_norm"),
        "mlp": mlp,
    }


def _linear(
    shape: tuple[int, int], axes: tuple[str, str], has_bias: bool, hf: str, gguf: str
) -> dict[str, Param]:
    names = {"hf": f"{hf}.weight", "gguf": f"{gguf}.weight"}
    params = {"weight": Param(shape, axes, _NORMAL, names)}
    if has_bias:
        names = {"hf": f"{hf}.bias", "gguf": f"{gguf}.bias"}
        params["bias"] = Param(shape[:1], axes[:1], _ZEROS, names)
    return params


def _norm(size: int, hf: str, gguf: str) -> dict[str, Param]:
    names = {"hf": f"{hf}.weight", "gguf": f"{gguf}.weight"}
    return {"scale": Param((size,), (None,), _ONES, names)}


def heads_params(config: MedusaConfig) -> dict[str, Any]:
    """Records of the Medusa heads' parameters, nested as the parameters are.

    The M heads are stacked, and so are the L blocks of each. A "token_map" (int32 [Vd]) beside
    the parameters is data, not a parameter: it has no record.

    Args:
      config: of the heads.
    """
    M, L, D, V = config.num_heads, config.num_layers, config.hidden_size, config.vocab_size
    axes = ("medusa", "layer", "block", "embed")
    medusa, vllm = "{head}.{layer}.linear", "blocks.{head}.layers.{layer}"
    names = {"medusa": f"{medusa}.weight", "vllm": f"{vllm}.weight"}
    params: dict[str, Any] = {"blocks": {"weight": Param((M, L, D, D), axes, _ZEROS, names)}}
    if config.bias:
        names = {"medusa": f"{medusa}.bias", "vllm": f"{vllm}.bias"}
        params["blocks"]["bias"] = Param((M, L, D), axes[:-1], _ZEROS, names)
    if config.root_conditioned:
        axes = ("medusa", "block", "embed")
        names = {"medusa": "{head}.root.weight"}
        params["root"] = {"weight": Param((M, D, D), axes, _ZEROS, names)}
    if config.own_projection:
        axes = ("medusa", "vocab", "embed")
        # In the original's sequence of modules the projection follows the blocks: its layer is L.
        names = {"medusa": "{head}.{layer}.weight", "vllm": "lm_heads.{head}.weight"}
        params["projection"] = {"weight": Param((M, V, D), axes, _ZEROS, names)}
    return params


def by_path(records: Mapping[str, Any]) -> dict[tuple[str, ...], Param]:
    """The records by the paths of their parameters, e.g. ("layers_0", "attn", "q", "weight")."""
    flat: dict[Any, Any] = dict(flatten_dict(records))
    return flat


def untied(params: dict[str, Any]) -> dict[str, Any]:
    """A backbone's parameters (or anything nested like them) with an LM head of their own.

    Where the LM head is tied, it is the embedding.
    """
    return {"lm_head": params["embed"]} | params


def heads_config_of(params: Mapping[str, Any], vocab_size: int) -> MedusaConfig:
    """The configuration of heads from their parameters.

    Args:
      params: in the layout of `heads_params`, with the "token_map" where there is one.
      vocab_size: V of the backbone.
    """
    M, L, D, _ = params["blocks"]["weight"].shape
    token_map = params.get("token_map")
    return MedusaConfig(
        num_heads=M,
        num_layers=L,
        hidden_size=D,
        vocab_size=vocab_size if token_map is None else len(token_map),
        bias="bias" in params["blocks"],
        own_projection="projection" in params,
        draft_vocab=token_map is not None,
        root_conditioned="root" in params,
    )
