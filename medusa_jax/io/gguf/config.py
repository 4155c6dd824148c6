"""What a GGUF file's metadata says about the network."""

from typing import Any

import numpy as np

from medusa_jax.config import LlamaConfig, RopeConfig
from medusa_jax.errors import UserError
from medusa_jax.io.gguf.file import GGUFFile, read_tensor
from medusa_jax.nn.rope import base_frequencies

# llama.cpp's names. "llama" covers Llama 1-3, Vicuna, Mistral, Zephyr and SmolLM.
ARCHITECTURES = ("llama", "qwen2", "qwen3")

# Keys that change the computation in a way this project does not have, unless they are zero.
_UNSUPPORTED = (
    "attention.clamp_kqv",
    "attention.scale",
    "attention.sliding_window_pattern",
    "attn_logit_softcapping",
    "embedding_scale",
    "expert_count",
    "final_logit_softcapping",
    "logit_scale",
    "residual_scale",
)
_ENDS = ("eos", "eot", "eom")


def read_config(header: GGUFFile) -> LlamaConfig:
    """Translates metadata, and what tensors there are, to a configuration.

    Raises:
      UserError: another architecture, a missing key, or a feature this project does not have.
    """
    architecture = header.metadata.get("general.architecture")
    if architecture not in ARCHITECTURES:
        raise UserError(
            f"{header.path} has architecture {architecture!r}: "
            f"only {', '.join(ARCHITECTURES)} work from a GGUF file"
        )
    _refuse_unsupported(header)
    heads, tensors = _integer(header, "attention.head_count"), header.tensors
    layers, head_dim = _integer(header, "block_count"), _head_dim(header, heads)
    window = int(_number(header, "attention.sliding_window", 0))
    return LlamaConfig(
        vocab_size=tensors["token_embd.weight"].shape[0] if "token_embd.weight" in tensors else 0,
        hidden_size=_integer(header, "embedding_length"),
        intermediate_size=_integer(header, "feed_forward_length"),
        num_layers=layers,
        num_heads=heads,
        num_kv_heads=_kv_heads(header, heads),
        head_dim=head_dim,
        max_position=_integer(header, "context_length"),
        rms_norm_eps=_epsilon(header),
        rope=_read_rope(header, head_dim),
        tie_embeddings="output.weight" not in tensors,
        qkv_bias="blk.0.attn_q.bias" in tensors,
        o_bias="blk.0.attn_output.bias" in tensors,
        mlp_bias="blk.0.ffn_gate.bias" in tensors,
        qk_norm="blk.0.attn_q_norm.weight" in tensors,
        windows=(window,) * layers if window else (),
    )


def eos_ids(header: GGUFFile) -> tuple[int, ...]:
    """Ids that end a reply: end of sequence, of turn and of message, as far as they are named."""
    named = (header.metadata.get(f"tokenizer.ggml.{role}_token_id") for role in _ENDS)
    return tuple(dict.fromkeys(token for token in named if isinstance(token, int)))


def _refuse_unsupported(header: GGUFFile) -> None:
    if header.metadata.get("split.count", 0) not in (0, 1):
        raise UserError(
            f"{header.path} is one part of a split model: join the parts with "
            "`llama-gguf-split --merge` first"
        )
    for key in _UNSUPPORTED:
        if _field(header, key):
            raise UserError(f"{header.path} uses {key}, which is not supported: use another model")


def _head_dim(header: GGUFFile, heads: int) -> int:
    hidden = _integer(header, "embedding_length")
    head_dim = _integer(header, "attention.key_length", hidden // heads)
    divides = not hidden % heads or _field(header, "attention.key_length") is not None
    if not divides or head_dim % 2:
        raise UserError(
            f"{header.path}: {heads} heads do not fit the hidden size {hidden}: "
            "convert the model again"
        )
    for key in ("attention.value_length", "rope.dimension_count"):
        if _integer(header, key, head_dim) != head_dim:
            raise UserError(
                f"{header.path}: {key} differs from the head size {head_dim}, which is not "
                "supported: use another model"
            )
    return head_dim


def _kv_heads(header: GGUFFile, heads: int) -> int:
    kv_heads = _integer(header, "attention.head_count_kv", heads)
    if heads % kv_heads:
        raise UserError(
            f"{header.path}: {kv_heads} KV heads do not divide {heads} heads: "
            "convert the model again"
        )
    return kv_heads


def _read_rope(header: GGUFFile, head_dim: int) -> RopeConfig:
    theta = _positive(header, "rope.freq_base", 10000.0)
    kind = _field(header, "rope.scaling.type")
    if kind not in (None, "none", "linear"):
        raise UserError(
            f"{header.path} uses rope scaling {kind!r}: only none, linear and llama3 work"
        )
    if "rope_freqs.weight" in header.tensors:
        return _fit_llama3(header, theta, head_dim)
    # "scale_linear" is the older spelling.
    factor = _positive(header, "rope.scaling.factor", _number(header, "rope.scale_linear", 1.0))
    # llama.cpp takes a file that names no kind to mean this one.
    if kind == "linear" or (kind is None and factor != 1) or _field(header, "rope.scale_linear"):
        return RopeConfig(theta=theta, kind="linear", factor=factor)
    return RopeConfig(theta=theta)


def _fit_llama3(header: GGUFFile, theta: float, head_dim: int) -> RopeConfig:
    """Recovers Llama 3's scaling, of which the file keeps only the divisors of the frequencies.

    The parameters are the published ones of Llama 3.1 and 3.2 apart from the factor, which is the
    largest divisor; that they reproduce every divisor is checked.
    """
    divisors = read_tensor(header, "rope_freqs.weight", np.dtype(np.float32)).reshape(-1)
    plain = RopeConfig(theta=theta)
    rope = RopeConfig(
        theta=theta,
        kind="llama3",
        factor=float(divisors.max()),
        low_freq_factor=1.0,
        high_freq_factor=4.0,
        original_max_position=8192,
    )
    expected = base_frequencies(plain, head_dim) / base_frequencies(rope, head_dim)
    if divisors.shape != expected.shape or not np.allclose(divisors, expected, rtol=1e-4):
        raise UserError(
            f"{header.path} scales its rotary embedding in another way than Llama 3: "
            "pass the Hugging Face folder of the model instead"
        )
    return rope


def _epsilon(header: GGUFFile) -> float:
    # The file has float32, so 1e-5 reads as 9.99999975e-06; the shortest decimal is what was meant.
    return float(str(np.float32(_number(header, "attention.layer_norm_rms_epsilon"))))


def _field(header: GGUFFile, key: str) -> Any:
    return header.metadata.get(f"{header.metadata['general.architecture']}.{key}")


def _number(header: GGUFFile, key: str, default: float | None = None) -> float:
    value = _field(header, key)
    # Some writers give a list with one entry per layer.
    if isinstance(value, list) and value and all(entry == value[0] for entry in value):
        value = value[0]
    value = default if value is None else value
    if value is None:
        raise UserError(f"{header.path} lacks the metadata {key}: convert the model again")
    if not isinstance(value, int | float) or not 0 <= value < float("inf"):
        raise UserError(f"{header.path}: {key} should be one number from 0 on: use another model")
    return value


def _integer(header: GGUFFile, key: str, default: int | None = None) -> int:
    return _above_zero(header, key, int(_number(header, key, default)))


def _positive(header: GGUFFile, key: str, default: float) -> float:
    return _above_zero(header, key, float(_number(header, key, default)))


def _above_zero(header: GGUFFile, key: str, value: Any) -> Any:
    if value <= 0:
        raise UserError(f"{header.path}: {key} is {value}: convert the model again")
    return value
