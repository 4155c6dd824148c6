"""Hugging Face `config.json` to `LlamaConfig`, in every spelling since transformers 4.28."""

from typing import Any

from medusa_jax.config import LlamaConfig, RopeConfig
from medusa_jax.errors import UserError

_LLAMA = {
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": None,
    "head_dim": None,
    "hidden_act": "silu",
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
    "attention_bias": False,
    "mlp_bias": False,
    "sliding_window": None,
}
_QWEN2 = _LLAMA | {
    "vocab_size": 151936,
    "intermediate_size": 22016,
    "num_key_value_heads": 32,
    "max_position_embeddings": 32768,
    "use_sliding_window": False,
    "sliding_window": 4096,
    "max_window_layers": 28,
    "layer_types": None,
}
_MISTRAL = _LLAMA | {
    "intermediate_size": 14336,
    "num_key_value_heads": 8,
    "max_position_embeddings": 131072,
    "sliding_window": 4096,
    "layer_types": None,  # transformers calls a Mistral that has them a Ministral
}
# What transformers assumes for a key that config.json leaves out (its writers drop defaults).
_DEFAULTS: dict[str, dict[str, Any]] = {
    "llama": _LLAMA,
    "mistral": _MISTRAL,
    "ministral": _MISTRAL,
    "qwen2": _QWEN2,
    "qwen3": _QWEN2 | {"head_dim": 128},
}
_MOST_TOKENS = 2**31 - 1
# The numbers each kind of rope scaling needs besides theta; all are required by transformers.
_ROPE_NUMBERS = {
    "default": (),
    "linear": ("factor",),
    "dynamic": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor"),
}


def parse_config(raw: dict[str, Any]) -> LlamaConfig:
    """Translates the contents of a Hugging Face `config.json`.

    Missing keys mean what they mean to transformers 5. `max_position` is the longest sequence
    that the model accepts: the rope kinds "linear" and "dynamic" extend the file's
    `max_position_embeddings` by their factor, while for "llama3" it is already extended.

    Args:
      raw: the parsed file.

    Returns:
      The configuration of the network.

    Raises:
      UserError: the architecture, activation, rope kind or quantization is not supported, or a
        value makes no sense.
    """
    kind = _architecture(raw)
    values = _DEFAULTS[kind] | raw
    if values["hidden_act"] != "silu":
        raise UserError(f"hidden_act {values['hidden_act']!r} is not supported: only silu is")
    if raw.get("quantization_config"):
        raise UserError("quantized weights are not supported: use the float16 or bfloat16 model")
    rope = _rope(values)
    num_heads, num_kv_heads = _num_heads(values)
    has_bias = bool(values["attention_bias"]) and kind in ("llama", "qwen3")
    num_layers = _count(values, "num_hidden_layers")
    extension = rope.factor if rope.kind in ("linear", "dynamic") else 1
    return LlamaConfig(
        vocab_size=_count(values, "vocab_size"),
        hidden_size=_count(values, "hidden_size"),
        intermediate_size=_count(values, "intermediate_size"),
        num_layers=num_layers,
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=_head_dim(values, num_heads),
        max_position=int(_count(values, "max_position_embeddings") * extension),
        rms_norm_eps=_number(values, "rms_norm_eps"),
        rope=rope,
        tie_embeddings=bool(values["tie_word_embeddings"]),
        qkv_bias=kind == "qwen2" or has_bias,
        o_bias=has_bias,
        mlp_bias=kind == "llama" and bool(values["mlp_bias"]),
        qk_norm=kind == "qwen3",
        windows=_windows(kind, values, num_layers),
    )


def _num_heads(values: dict[str, Any]) -> tuple[int, int]:
    """Query heads and key/value heads."""
    num_heads = num_kv_heads = _count(values, "num_attention_heads")
    if values["num_key_value_heads"] is not None:
        num_kv_heads = _count(values, "num_key_value_heads")
    if num_heads % num_kv_heads:
        raise UserError(
            f"num_attention_heads {num_heads} is not a multiple of num_key_value_heads "
            f"{num_kv_heads}: mend config.json"
        )
    return num_heads, num_kv_heads


def eos_ids(
    config: dict[str, Any], generation_config: dict[str, Any] | None = None
) -> tuple[int, ...]:
    """End-of-sequence ids, from `generation_config.json` where it names any, else `config.json`.

    Args:
      config: the parsed `config.json`.
      generation_config: the parsed `generation_config.json`, if there is one.

    Returns:
      The ids in the file's order; empty when neither file names one.

    Raises:
      UserError: what is named is no token id.
    """
    found = (generation_config or {}).get("eos_token_id")
    if found is None:
        found = config.get("eos_token_id")
    if found is None:
        return ()
    ids = found if isinstance(found, list) else [found]
    if not all(type(number) is int and abs(number) <= _MOST_TOKENS for number in ids):
        raise UserError(
            f"eos_token_id is {found!r}: mend generation_config.json or config.json, it must be a "
            "token id or a list of them"
        )
    return tuple(ids)


def _architecture(raw: dict[str, Any]) -> str:
    kind = raw.get("model_type")
    if isinstance(kind, str) and kind in _DEFAULTS:
        return kind
    if kind == "medusa" or ("medusa_num_heads" in raw and kind is None):
        raise UserError(
            "config.json describes Medusa heads, not a language model: pass this with --medusa and "
            f"its base model with --model ({raw.get('base_model_name_or_path', 'see its card')})"
        )
    raise UserError(
        f"model_type {kind!r} is not supported: use a llama (also Vicuna), mistral (also Zephyr), "
        "ministral, qwen2 or qwen3 model"
    )


def _number(values: dict[str, Any], key: str) -> float:
    value = values.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        raise UserError(f"config.json: {key} must be a positive number, not {value!r}")
    return float(value)


def _count(values: dict[str, Any], key: str, smallest: int = 1) -> int:
    value = values.get(key)
    if isinstance(value, bool) or not isinstance(value, int) or value < smallest:
        raise UserError(f"config.json: {key} must be an integer from {smallest} up, not {value!r}")
    return value


def _head_dim(values: dict[str, Any], num_heads: int) -> int:
    if values["head_dim"] is not None:
        head_dim = _count(values, "head_dim")
    else:
        head_dim = _count(values, "hidden_size") // num_heads
    if head_dim % 2 or not head_dim:
        raise UserError(f"heads of {head_dim} dimensions cannot be rotated: mend config.json")
    return head_dim


def _rope(values: dict[str, Any]) -> RopeConfig:
    """`rope_scaling` wins over `rope_parameters`, and theta inside over theta beside them."""
    given = values.get("rope_scaling") or values.get("rope_parameters") or {}
    if not isinstance(given, dict) or any(isinstance(value, dict) for value in given.values()):
        raise UserError("rope parameters of their own for each layer type are not supported")
    merged = {"rope_theta": values.get("rope_theta", 10000.0)} | given
    kind = given.get("rope_type", given.get("type", "default"))
    if not isinstance(kind, str) or kind not in _ROPE_NUMBERS:
        raise UserError(
            f"rope scaling {kind!r} is not supported: use a model with "
            f"{', '.join(_ROPE_NUMBERS)} or none"
        )
    for source in (values, given):
        if source.get("partial_rotary_factor") not in (None, 1):
            raise UserError("partial_rotary_factor other than 1 is not supported")
    numbers = {key: _number(merged, key) for key in _ROPE_NUMBERS[kind]}
    return RopeConfig(
        theta=_number(merged, "rope_theta"),
        kind=kind,
        original_max_position=_original_max_position(kind, values, given),
        **numbers,
    )


def _original_max_position(kind: str, values: dict[str, Any], given: dict[str, Any]) -> int:
    """Context before the extension: for "dynamic", whatever the rope parameters themselves say."""
    key = "original_max_position_embeddings"
    if kind == "llama3":
        for source in (values, given):
            if source.get(key) is not None:
                return _count(source, key)
    return _count(values, "max_position_embeddings") if kind in ("dynamic", "llama3") else 0


def _windows(kind: str, values: dict[str, Any], num_layers: int) -> tuple[int | None, ...]:
    """Those layers slide that `layer_types` names, else Qwen's after some and all of Mistral's."""
    if kind == "llama":
        return ()
    is_qwen = kind in ("qwen2", "qwen3")
    slides = values["use_sliding_window"] if is_qwen else True
    window = None
    if slides and values["sliding_window"] is not None:
        window = _count(values, "sliding_window")
    names = values["layer_types"]
    if not isinstance(names, list | None):
        raise UserError(f"config.json: layer_types must be a list, not {names!r}")
    if names is not None:
        sliding = [_is_sliding(name, window) for name in names]
    else:
        first = _count(values, "max_window_layers", smallest=0) if is_qwen else 0
        sliding = [layer >= first for layer in range(num_layers)]
    if len(sliding) != num_layers:
        raise UserError(
            f"config.json: layer_types names {len(sliding)} layers, num_hidden_layers {num_layers}"
        )
    windows = tuple(window if slide else None for slide in sliding)
    return windows if any(windows) else ()


def _is_sliding(layer_type: str, window: int | None) -> bool:
    if layer_type not in ("full_attention", "sliding_attention"):
        raise UserError(
            f"layer type {layer_type!r} is not supported: only full_attention and "
            "sliding_attention are"
        )
    if layer_type == "sliding_attention" and window is None:
        raise UserError(
            "config.json: layer_types has sliding_attention, but use_sliding_window is off or "
            "sliding_window is null"
        )
    return layer_type == "sliding_attention"
