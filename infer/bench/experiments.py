"""Three design questions that only an accelerator answers; each is a small measurement.

1. Scanned or unrolled layers in decode.
2. Whether cuDNN attention gives residuals with ragged lengths at tree sizes, and how fast.
3. Pallas decode attention over the committed prefix against plain XLA.
"""

import dataclasses
import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any, cast

import jax
import jax.numpy as jnp

from infer.bench.timing import time_loop
from medusa_jax import MedusaLM
from medusa_jax.config import LlamaConfig
from medusa_jax.decoding import cache as kv_cache
from medusa_jax.decoding.cache import KVCache
from medusa_jax.nn.attention import attend_part
from medusa_jax.nn.decoder_layer import Layer
from medusa_jax.nn.layers import RMSNorm
from medusa_jax.nn.llama import Llama
from medusa_jax.nn.params import backbone_params
from medusa_jax.nn.rope import rope_angles

NODES = (1, 8, 64)
SLOTS = (1024, 4096)
BATCH = 4
_ITERATIONS = 20
_NO_GPU = "not available: needs a GPU"

# (q_BRNH, k_BSKH, v_BSKH, length_B) -> output BRNH and log-sum-exp BRN.
PrefixAttention = Callable[..., tuple[jax.Array, jax.Array]]


def run_experiments(lm: MedusaLM, rounds: int, sizes: Sequence[int] = NODES) -> dict[str, Any]:
    """Answers all three on this device; an answer that cannot be had says why under "error".

    Args:
      lm: a model; its configuration and dtype are what counts.
      rounds: repetitions, of which the median counts.
      sizes: numbers of tree nodes to try.
    """
    questions: dict[str, Callable[[], Any]] = {
        "scanned_layers": lambda: [compare_layers(lm, nodes, rounds) for nodes in sizes],
        "cudnn_attention": lambda: _compare_on_gpu(lm, cudnn_attention, sizes, rounds),
        "pallas_attention": lambda: _compare_on_gpu(lm, pallas_attention, sizes, rounds),
    }
    return {name: _answer(question) for name, question in questions.items()}


def _answer(question: Callable[[], Any]) -> Any:
    try:
        return question()
    except Exception as error:  # whatever a kernel refuses with is the answer
        return {"error": _first_line(error)}


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:300] if lines else ''}"


def compare_layers(lm: MedusaLM, nodes: int, rounds: int) -> dict[str, Any]:
    """Times one backbone pass of `nodes` new tokens over a full cache, unrolled and scanned.

    Both get their parameters and cache in the layout that suits them; the scan's copy of the
    layers needs as much memory again.
    """
    c, dtype = lm.config, jnp.dtype(lm.dtype)
    token_BR = jnp.zeros((1, nodes), jnp.int32)
    slots = SLOTS[0]
    kept = kv_cache.storage_dtype(lm.dtype, lm.platform)
    cache = kv_cache.empty_cache(c, 1, slots, jnp.dtype(kept))
    cache = dataclasses.replace(cache, length_B=jnp.full((1,), slots, jnp.int32))
    layers = [lm.params[f"layers_{i}"] for i in range(c.num_layers)]
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *zip(layers, cache.layers, strict=True))
    outer = {k: v for k, v in lm.params.items() if not k.startswith("layers_")}
    passes = {
        "unrolled": (_unrolled_pass(c, dtype), (lm.params, cache)),
        "scanned": (_scanned_pass(c, dtype), (outer, stacked, cache.length_B)),
    }
    row: dict[str, Any] = {"nodes": nodes}
    for name, (run, operands) in passes.items():
        timing = time_loop(_chained(run), token_BR, operands, _ITERATIONS, rounds)
        row[f"{name}_ms"] = 1e3 * timing.seconds
        row[f"{name}_compile_seconds"] = timing.compile_seconds
    hidden = [jax.jit(run)(token_BR, *operands) for run, operands in passes.values()]
    return row | {"max_difference": _max_difference(*hidden)}


def _chained(run: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    """Lets the next tokens depend on the last pass without ever changing them."""

    def step(token_BR: jax.Array, *operands: Any) -> jax.Array:
        hidden_BRD = run(token_BR, *operands).astype(jnp.float32)
        return token_BR + (hidden_BRD[..., 0] > 1e30).astype(jnp.int32)

    return step


def _where(token_BR: jax.Array, length_B: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Positions after the cached ones, and a mask with which every token sees only itself."""
    nodes = token_BR.shape[1]
    return jnp.broadcast_to(length_B[:, None], token_BR.shape), jnp.eye(nodes, dtype=jnp.bool_)[
        None
    ]


def _unrolled_pass(config: LlamaConfig, dtype: Any) -> Callable[..., jax.Array]:
    def run(token_BR: jax.Array, params: Any, cache: KVCache) -> jax.Array:
        position_BR, mask_BRR = _where(token_BR, cache.length_B)
        hidden_BRD, _ = Llama(config, dtype).apply(
            {"params": params},
            token_BR,
            position_BR,
            mask_BRR,
            prefix=cache.layers,
            prefix_length_B=cache.length_B,
        )
        return hidden_BRD

    return run


def _scanned_pass(config: LlamaConfig, dtype: Any) -> Callable[..., jax.Array]:
    def run(token_BR: jax.Array, outer: Any, stacked: Any, length_B: jax.Array) -> jax.Array:
        position_BR, mask_BRR = _where(token_BR, length_B)
        angles = rope_angles(config.rope, config.head_dim, position_BR, position_BR + 1)

        def layer(x_BRD: jax.Array, params_and_prefix: Any) -> tuple[jax.Array, None]:
            params, prefix = params_and_prefix
            x_BRD, _ = Layer(config, dtype, None).apply(
                {"params": params}, x_BRD, mask_BRR, position_BR, angles, prefix, length_B
            )
            return x_BRD, None

        x_BRD = jnp.take(outer["embed"]["weight"], token_BR, axis=0).astype(dtype)
        x_BRD, _ = jax.lax.scan(layer, x_BRD, stacked)
        final_norm = RMSNorm(backbone_params(config)["final_norm"], config.rms_norm_eps)
        return cast(jax.Array, final_norm.apply({"params": outer["final_norm"]}, x_BRD))

    return run


def _compare_on_gpu(
    lm: MedusaLM, kernel: PrefixAttention, sizes: Sequence[int], rounds: int
) -> Any:
    if jax.default_backend() != "gpu":
        return {"error": _NO_GPU}
    return [
        compare_attention(lm, kernel, nodes, slots, rounds) for slots in SLOTS for nodes in sizes
    ]


def compare_attention(
    lm: MedusaLM, kernel: PrefixAttention, nodes: int, slots: int, rounds: int
) -> dict[str, Any]:
    """Times prefix attention of `nodes` tokens per row over a ragged prefix: XLA and a kernel."""
    q, k, v, length_B = attention_inputs(lm.config, jnp.dtype(lm.dtype), nodes, slots)
    row: dict[str, Any] = {"nodes": nodes, "slots": slots, "batch": BATCH}
    # Each side holds the cache as it reads it best, so that no transposition is timed.
    k_BKHS, v_BKSH = k.transpose(0, 2, 3, 1), v.swapaxes(1, 2)
    sides = {
        "xla": lambda q, k, v, n: xla_attention(q, k.transpose(0, 3, 1, 2), v.swapaxes(1, 2), n),
        "kernel": kernel,
    }
    operands = {"xla": (k_BKHS, v_BKSH, length_B), "kernel": (k, v, length_B)}
    results = []
    for name, attend in sides.items():
        results.append(_answer(lambda f=attend, o=operands[name]: jax.jit(f)(q, *o)))
    if isinstance(results[1], dict):
        return row | results[1]
    for name, attend in sides.items():
        timing = time_loop(lambda q, *o, f=attend: f(q, *o)[0], q, operands[name], 50, rounds)
        row[f"{name}_us"] = 1e6 * timing.seconds
    differences = [_max_difference(*pair) for pair in zip(*results, strict=True)]
    return row | {"max_difference": differences[0], "max_residual_difference": differences[1]}


def attention_inputs(
    config: LlamaConfig, dtype: Any, nodes: int, slots: int
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Random q_BRNH, k_BSKH, v_BSKH and length_B from slots / BATCH to slots."""
    c, keys = config, jax.random.split(jax.random.key(0), 3)
    q = jax.random.normal(keys[0], (BATCH, nodes, c.num_heads, c.head_dim), dtype)
    prefix = (BATCH, slots, c.num_kv_heads, c.head_dim)
    k, v = jax.random.normal(keys[1], prefix, dtype), jax.random.normal(keys[2], prefix, dtype)
    return q, k, v, (jnp.arange(BATCH, dtype=jnp.int32) + 1) * (slots // BATCH)


def xla_attention(q_BRNH, k_BSKH, v_BSKH, length_B) -> tuple[jax.Array, jax.Array]:
    """The prefix part of `medusa_jax.nn.attention`."""
    B, R, N, H = q_BRNH.shape
    S, K = k_BSKH.shape[1:3]
    q_BKGRH = q_BRNH.reshape(B, R, K, N // K, H).transpose(0, 2, 3, 1, 4)
    seen_BS = jnp.arange(S, dtype=jnp.int32)[None] < length_B[:, None]
    k_BKHS, v_BKSH = k_BSKH.transpose(0, 2, 3, 1), v_BSKH.swapaxes(1, 2)
    part = attend_part(q_BKGRH, k_BKHS, v_BKSH, seen_BS[:, None, None, None])
    out_BKGRH = part.value / part.total[..., None]
    lse_BKGR = part.top + jnp.log(part.total)
    out = out_BKGRH.transpose(0, 3, 1, 2, 4).reshape(B, R, N, H).astype(q_BRNH.dtype)
    return out, lse_BKGR.transpose(0, 3, 1, 2).reshape(B, R, N)


def cudnn_attention(q_BRNH, k_BSKH, v_BSKH, length_B) -> tuple[jax.Array, jax.Array]:
    """cuDNN flash attention; it returns the log-sum-exp rounded to q's dtype."""
    return jax.nn.dot_product_attention(
        q_BRNH,
        k_BSKH,
        v_BSKH,
        key_value_seq_lengths=length_B,
        implementation="cudnn",
        return_residual=True,
    )


def pallas_attention(
    q_BRNH, k_BSKH, v_BSKH, length_B, *, interpret: bool = False
) -> tuple[jax.Array, jax.Array]:
    """Pallas decode attention, made for one token per row.

    All nodes of a tree see the same prefix, so they pass as further query heads of their key head.
    """
    with warnings.catch_warnings():  # newer JAX deprecates the kernel: one more answer, no fault
        warnings.simplefilter("ignore", DeprecationWarning)
        from jax.experimental.pallas.ops.gpu.decode_attention import gqa

    B, R, N, H = q_BRNH.shape
    K = k_BSKH.shape[2]
    q_BKGRH = q_BRNH.reshape(B, R, K, N // K, H).transpose(0, 2, 3, 1, 4)
    out, (total, top) = gqa(
        q_BKGRH.reshape(B, N * R, H),
        k_BSKH,
        v_BSKH,
        kv_seq_len=length_B,
        return_residuals=True,
        interpret=interpret,
    )
    out_BKGRH = out.reshape(q_BKGRH.shape)
    lse_BKGR = (top + jnp.log(total)).reshape(q_BKGRH.shape[:-1])
    out_BRNH = out_BKGRH.transpose(0, 3, 1, 2, 4).reshape(B, R, N, H)
    return out_BRNH, lse_BKGR.transpose(0, 3, 1, 2).reshape(B, R, N)


def _max_difference(a: jax.Array, b: jax.Array) -> float | None:
    """Largest absolute difference; None where one side is not finite, which JSON cannot express."""
    difference = float(jnp.max(jnp.abs(a.astype(jnp.float32) - b.astype(jnp.float32))))
    return difference if math.isfinite(difference) else None
