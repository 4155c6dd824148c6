"""One record per parameter: its shape, its axes, how it starts and what checkpoints call it.

The networks declare their parameters from these records, and abstract parameters, shardings,
loaders and exporters follow them: a new parameter is one line here and its use in the network.
"""

import dataclasses
from collections.abc import Callable, Container, Mapping
from typing import Any, get_args

import jax
from flax.traverse_util import flatten_dict

from medusa_jax.config import Conditioning, LlamaConfig, MedusaConfig

_NORMAL = jax.nn.initializers.normal(0.02)
_ZEROS, _ONES = jax.nn.initializers.zeros, jax.nn.initializers.ones
# For what is multiplied by a matrix that begins at 0: if both were 0, neither would learn.
_SAME_SIZE = jax.nn.initializers.variance_scaling(1.0, "fan_in", "normal", in_axis=-1, out_axis=-2)


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
    """Records of one decoder layer; the layers differ only in their names in checkpoints."""
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
    blocks = 1 if config.conditioning == "recurrent" else M
    axes = ("medusa", "layer", "block", "embed")
    medusa, vllm = "{head}.{layer}.linear", "blocks.{head}.layers.{layer}"
    names = {"medusa": f"{medusa}.weight", "vllm": f"{vllm}.weight"}
    params: dict[str, Any] = {"blocks": {"weight": Param((blocks, L, D, D), axes, _ZEROS, names)}}
    if config.bias:
        names = {"medusa": f"{medusa}.bias", "vllm": f"{vllm}.bias"}
        params["blocks"]["bias"] = Param((M, L, D), axes[:-1], _ZEROS, names)
    if config.own_projection:
        axes = ("medusa", "vocab", "embed")
        # In the original's sequence of modules the projection follows the blocks: its layer is L.
        names = {"medusa": "{head}.{layer}.weight", "vllm": "lm_heads.{head}.weight"}
        params["projection"] = {"weight": Param((M, V, D), axes, _ZEROS, names)}
    return params | _conditioning_params(config)


def all_heads_params() -> list[dict[str, Any]]:
    """Records of small heads of all kinds: together they have every parameter that can exist."""
    kinds = [MedusaConfig(1, 1, 1, own_projection=True, conditioning="root")]
    for kind in get_args(Conditioning)[2:]:
        rank = 1 if "markov" in kind else 0
        kinds.append(MedusaConfig(1, 1, 1, conditioning=kind, markov_rank=rank))
    return [heads_params(kind) for kind in kinds]


def _conditioning_params(config: MedusaConfig) -> dict[str, Any]:
    """Records of what heads have beyond the paper's; no format but our own can hold them."""
    M, D, V, r = config.num_heads, config.hidden_size, config.vocab_size, config.markov_rank
    kind, block = config.conditioning, ("block", "embed")
    params: dict[str, Any] = {}
    if config.sees_root and kind not in ("branch", "recurrent"):
        params["root"] = _own((M, D, D), ("medusa", *block), _ZEROS, "{head}.root")
    if kind == "branch":  # head k sees k tokens: M (M + 1) / 2 pairs, in the order of the heads
        shape = (M * (M + 1) // 2, D, D)
        params["branch"] = _own(shape, ("pair", *block), _ZEROS, "{head}.branch.{layer}")
    if kind == "recurrent":
        params["cell_token"] = _own((D, D), block, _SAME_SIZE, "cell.token")
        params["cell_token"] |= _own((D,), block[:1], _ZEROS, "cell.token", "bias")
        params["cell_state"] = _own((D, D), block, _SAME_SIZE, "cell.state")
        params["cell_out"] = _own((D, D), block, _ZEROS, "cell.out")
    if config.corrects:
        params["markov_in"] = _own((r, D), ("rank", "embed"), _SAME_SIZE, "markov.in")
        params["markov_out"] = _own((V, r), ("vocab", "rank"), _ZEROS, "markov.out")
    if kind == "gated_markov":
        params["markov_gate"] = _own((r, D + r), ("rank", None), _ZEROS, "markov.gate")
    return params


def _own(
    shape: tuple[int, ...], axes: tuple[str | None, ...], init: Any, name: str, kind: str = "weight"
) -> dict[str, Param]:
    return {kind: Param(shape, axes, init, {"medusa": f"{name}.{kind}"})}


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
    blocks = params["blocks"]
    M = blocks["bias"].shape[0] if "cell_out" in params else blocks["weight"].shape[0]
    _, L, D, _ = blocks["weight"].shape
    token_map = params.get("token_map")
    return MedusaConfig(
        num_heads=M,
        num_layers=L,
        hidden_size=D,
        vocab_size=vocab_size if token_map is None else len(token_map),
        bias="bias" in blocks,
        own_projection="projection" in params,
        draft_vocab=token_map is not None,
        conditioning=conditioning_of(params),
        markov_rank=params["markov_in"]["weight"].shape[0] if "markov_in" in params else 0,
    )


def conditioning_of(modules: Container[str]) -> Conditioning:
    """What heads see, from the names of their modules.

    Args:
      modules: those of `heads_params`, e.g. "blocks" and "root".
    """
    tells: dict[str, Conditioning] = {
        "cell_out": "recurrent",
        "branch": "branch",
        "markov_gate": "gated_markov",
        "markov_in": "markov",
        "root": "root",
    }
    for module, kind in tells.items():
        if module in modules:
            return kind
    return "none"
