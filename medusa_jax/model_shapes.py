"""Published shapes with random weights: a step takes equally long whatever the weights are."""

import dataclasses
import itertools
from typing import Any

import jax
import jax.numpy as jnp

from medusa_jax.config import LlamaConfig, RopeConfig
from medusa_jax.nn.quantize import int8_where_it_lies

_LLAMA32_ROPE = RopeConfig(theta=500000.0, kind="llama3", factor=32.0, original_max_position=8192)
_LLAMA31_ROPE = dataclasses.replace(_LLAMA32_ROPE, factor=8.0)
SHAPES = {
    # About the size of stories260K: for machines without an accelerator.
    "tiny": LlamaConfig(
        vocab_size=512,
        hidden_size=64,
        intermediate_size=172,
        num_layers=5,
        num_heads=8,
        num_kv_heads=4,
        head_dim=8,
        max_position=1024,
        tie_embeddings=True,
    ),
    "llama-1b": LlamaConfig(  # Llama-3.2-1B
        vocab_size=128256,
        hidden_size=2048,
        intermediate_size=8192,
        num_layers=16,
        num_heads=32,
        num_kv_heads=8,
        head_dim=64,
        max_position=131072,
        rope=_LLAMA32_ROPE,
        tie_embeddings=True,
    ),
    "llama-3b": LlamaConfig(  # Llama-3.2-3B
        vocab_size=128256,
        hidden_size=3072,
        intermediate_size=8192,
        num_layers=28,
        num_heads=24,
        num_kv_heads=8,
        head_dim=128,
        max_position=131072,
        rope=_LLAMA32_ROPE,
        tie_embeddings=True,
    ),
    "llama-7b": LlamaConfig(  # Llama-2-7B
        vocab_size=32000,
        hidden_size=4096,
        intermediate_size=11008,
        num_layers=32,
        num_heads=32,
        num_kv_heads=32,
        head_dim=128,
        max_position=4096,
    ),
    "llama-8b": LlamaConfig(  # Llama-3.1-8B
        vocab_size=128256,
        hidden_size=4096,
        intermediate_size=14336,
        num_layers=32,
        num_heads=32,
        num_kv_heads=8,
        head_dim=128,
        max_position=131072,
        rope=_LLAMA31_ROPE,
    ),
    "llama-13b": LlamaConfig(  # Llama-2-13B
        vocab_size=32000,
        hidden_size=5120,
        intermediate_size=13824,
        num_layers=40,
        num_heads=40,
        num_kv_heads=40,
        head_dim=128,
        max_position=4096,
    ),
    "llama-33b": LlamaConfig(  # LLaMA-33B, the base of Vicuna-33B
        vocab_size=32000,
        hidden_size=6656,
        intermediate_size=17920,
        num_layers=60,
        num_heads=52,
        num_kv_heads=52,
        head_dim=128,
        max_position=2048,
        rms_norm_eps=1e-6,
    ),
    "llama-70b": LlamaConfig(  # Llama-3.1-70B
        vocab_size=128256,
        hidden_size=8192,
        intermediate_size=28672,
        num_layers=80,
        num_heads=64,
        num_kv_heads=8,
        head_dim=128,
        max_position=131072,
        rope=_LLAMA31_ROPE,
    ),
}


def random_like(shapes: Any, seed: int, quantize: str = "none") -> Any:
    """Random parameters: norms are ones, everything else is normal with deviation 0.02.

    Args:
      shapes: tree of `jax.ShapeDtypeStruct`s, with shardings or without.
      seed: of all of them.
      quantize: "none", or "int8": matrices in 8 bits.
    """
    numbers, key = itertools.count(), jax.random.key(seed)

    # Leaf by leaf: a single program would hold the bits of all leaves at once.
    def filled(path: tuple[Any, ...], leaf: jax.ShapeDtypeStruct) -> Any:
        fill = jax.jit(_fill, static_argnums=(1, 2), out_shardings=leaf.sharding)
        value = fill(jax.random.fold_in(key, next(numbers)), leaf.shape, leaf.dtype)
        is_code = quantize == "int8" and path[-1].key == "weight"
        return int8_where_it_lies(value) if is_code else value

    return jax.tree_util.tree_map_with_path(filled, shapes)


def _fill(key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
    if len(shape) == 1:  # the scales of norms
        return jnp.ones(shape, dtype)
    return jax.random.normal(key, shape, dtype) * 0.02
