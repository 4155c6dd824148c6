"""Random packed batches, and random parameters of a tiny network to train on them."""

import contextlib
import dataclasses
import functools
import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from medusa_jax.config import LlamaConfig, MedusaConfig
from medusa_jax.io.hf.weights import abstract_params
from medusa_jax.nn.heads import init_heads
from medusa_jax.nn.lora import init_lora
from tests.medusa_jax.tiny import CONFIG

SMALL = dataclasses.replace(CONFIG, num_layers=1)
TIED = dataclasses.replace(SMALL, tie_embeddings=True)


def quick_jit(function: Callable[..., Any], **options: Any) -> Any:
    """`jax.jit` for functions that run a few times: quick to compile rather than quick."""
    return jax.jit(function, compiler_options=_quick_options(), **options)


@functools.cache
def _quick_options() -> dict[str, bool | int]:
    """Those of these options that this version of the compiler has."""
    known = {}
    for name, value in {
        "xla_backend_optimization_level": 0,
        "xla_llvm_disable_expensive_passes": True,
        "xla_cpu_use_fusion_emitters": False,
    }.items():
        with contextlib.suppress(jax.errors.JaxRuntimeError):
            jax.jit(lambda: 0).lower().compile({name: value})
            known[name] = value
    return known


def packed_batch(
    rng: np.random.Generator, rows: int, length: int, vocab_size: int = 24
) -> dict[str, np.ndarray]:
    """Rows of three documents and some padding; labels anywhere, even where none may be."""
    segment_BT = np.zeros((rows, length), np.int32)
    position_BT = np.zeros((rows, length), np.int32)
    for row in range(rows):
        start, *inner, end = np.sort(rng.choice(np.arange(1, length + 1), 3, replace=False))
        for number, (a, b) in enumerate(itertools.pairwise([0, start, *inner, end]), 1):
            segment_BT[row, a:b] = number
            position_BT[row, a:b] = np.arange(b - a)
    return {
        "token": rng.integers(0, vocab_size, (rows, length)).astype(np.int32),
        "is_label": rng.random((rows, length)) < 0.7,
        "segment": segment_BT,
        "position": position_BT,
    }


def single_documents(batch: dict[str, np.ndarray]) -> list[dict[str, np.ndarray]]:
    """Every document of a packed batch in a row of its own, as short as it is."""
    singles = []
    for row, segment_T in enumerate(batch["segment"]):
        for number in range(1, segment_T.max() + 1):
            where = np.flatnonzero(segment_T == number)
            singles.append({name: x[row : row + 1, where] for name, x in batch.items()})
    return singles


def random_backbone(config: LlamaConfig, seed: int = 0) -> dict[str, Any]:
    """Weights with which neither attention nor softmax is flat."""
    rng = np.random.default_rng(seed)

    def weight(shape: tuple[int, ...]) -> np.ndarray:
        scale = shape[-1] ** -0.5 if len(shape) == 2 else 0.3
        return (rng.normal(size=shape) * 1.5 * scale + (len(shape) == 1)).astype(np.float32)

    return jax.tree.map(lambda x: weight(x.shape), abstract_params(config, jnp.float32))


def random_heads(config: MedusaConfig, seed: int = 1) -> dict[str, Any]:
    """Every matrix and bias random; no "token_map"."""
    rng = np.random.default_rng(seed)
    whole = dataclasses.replace(config, draft_vocab=False)
    lm_head_VD = jax.ShapeDtypeStruct((config.vocab_size, config.hidden_size), jnp.float32)
    shapes = jax.eval_shape(lambda x: init_heads(whole, x, jnp.float32), lm_head_VD)
    return _small_numbers(rng, shapes)


def random_lora(backbone: dict[str, Any], rank: int = 3, seed: int = 2) -> dict[str, Any]:
    """Adapters that change something: B is not zero."""
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(
        lambda key: init_lora(backbone, rank, key, jnp.float32), jax.random.key(0)
    )
    return _small_numbers(rng, shapes)


def _small_numbers(rng: np.random.Generator, shapes: Any) -> Any:
    return jax.tree.map(lambda x: (rng.normal(size=x.shape) * 0.3).astype(np.float32), shapes)
