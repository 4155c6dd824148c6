"""`LlamaConfig` to a Hugging Face `config.json`, for models that came without one (GGUF)."""

from typing import Any

from medusa_jax.config import LlamaConfig, RopeConfig
from medusa_jax.errors import UserError
from medusa_jax.io.hf.config import parse_config

_CLASSES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "ministral": "MinistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}


def hf_config(config: LlamaConfig) -> dict[str, Any]:
    """The contents of a `config.json` that `parse_config` and transformers read as this network.

    Args:
      config: of the network.

    Raises:
      UserError: no Hugging Face architecture that this project knows describes this network.
    """
    kind = _architecture(config)
    extension = config.rope.factor if config.rope.kind in ("linear", "dynamic") else 1
    raw = {
        "architectures": [_CLASSES[kind]],
        "model_type": kind,
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "hidden_act": "silu",
        "max_position_embeddings": round(config.max_position / extension),
        "rms_norm_eps": config.rms_norm_eps,
        "tie_word_embeddings": config.tie_embeddings,
        "use_cache": True,
    }
    raw |= _rope(config.rope) | _biases(kind, config) | _windows(kind, config)
    if parse_config(raw) != config:
        raise UserError(
            f"a {kind} model with these biases, windows and rotary embedding has no Hugging Face "
            "configuration: export the heads alone"
        )
    return raw


def _architecture(config: LlamaConfig) -> str:
    if config.qk_norm:
        return "qwen3"
    if config.qkv_bias and not config.o_bias:
        return "qwen2"
    if not config.windows:
        return "llama"
    return "mistral" if None not in config.windows else "ministral"


def _rope(rope: RopeConfig) -> dict[str, Any]:
    """In the spelling of transformers 4, which version 5 and all others read too."""
    raw: dict[str, Any] = {"rope_theta": rope.theta}
    if rope.kind == "default":
        return raw
    # "type" is what it was called before version 4.43, which did not know llama3.
    scaling: dict[str, Any] = {"rope_type": rope.kind, "type": rope.kind, "factor": rope.factor}
    if rope.kind == "llama3":
        del scaling["type"]
        scaling |= {
            "low_freq_factor": rope.low_freq_factor,
            "high_freq_factor": rope.high_freq_factor,
            "original_max_position_embeddings": rope.original_max_position,
        }
    return raw | {"rope_scaling": scaling}


def _biases(kind: str, config: LlamaConfig) -> dict[str, Any]:
    if kind == "llama":
        return {"attention_bias": config.o_bias, "mlp_bias": config.mlp_bias}
    return {"attention_bias": config.o_bias} if kind == "qwen3" else {}


def _windows(kind: str, config: LlamaConfig) -> dict[str, Any]:
    windows = [window for window in config.windows if window is not None]
    if kind == "mistral":
        return {"sliding_window": windows[0]}
    if not windows:
        return {}
    names = [
        "full_attention" if window is None else "sliding_attention" for window in config.windows
    ]
    raw = {"sliding_window": windows[0], "layer_types": names}
    if kind == "ministral":
        return raw
    return raw | {
        "use_sliding_window": True,
        "max_window_layers": names.index("sliding_attention"),
    }
