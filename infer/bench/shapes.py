"""Models of published shapes with random weights: a step takes as long whatever the weights are."""

import heapq
import itertools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from medusa_jax.config import LlamaConfig, MedusaConfig, RopeConfig
from medusa_jax.model import MedusaLM
from medusa_jax.nn.heads import init_heads
from medusa_jax.nn.llama import Llama, causal_mask
from medusa_jax.tree import Tree, build_tree, load_tree

NUM_HEADS = 5
_PRESET = "mc_sim_7b_63"
_LLAMA32_ROPE = RopeConfig(theta=500000.0, kind="llama3", factor=32.0, original_max_position=8192)
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
}


def random_lm(shape: str, dtype: str, own_projection: bool) -> MedusaLM:
    """A model and five heads with random weights, made on the device; no tokenizer, no EOS.

    Args:
      shape: a key of `SHAPES`.
      dtype: of parameters and computation.
      own_projection: every head has its own projection (format A), else the LM head (format C).
    """
    config = SHAPES[shape]
    heads = MedusaConfig(
        num_heads=NUM_HEADS,
        hidden_size=config.hidden_size,
        vocab_size=config.vocab_size,
        own_projection=own_projection,
    )
    head = jax.ShapeDtypeStruct((config.vocab_size, config.hidden_size), jnp.dtype(dtype))
    head_shapes = jax.eval_shape(lambda w: init_heads(heads, w, jnp.dtype(dtype)), head)
    return MedusaLM(
        config=config,
        params=_random_like(_backbone_shapes(config), 0, dtype),
        heads_config=heads,
        heads_params=_random_like(head_shapes, 1, dtype),
        tokenizer=None,
        eos_ids=(),
        dtype=dtype,
        tree=jax.device_put(build_tree([])),
    )


def shape_trees(specs: Sequence[str] | None) -> dict[str, Tree]:
    """Trees by name.

    Args:
      specs: see `medusa_jax.tree.load_tree`; None: sizes 8 to 64 of a published tree and, as
        published trees end there, a grown one of 128.

    Raises:
      UserError: an unknown tree, or one that needs more than five heads.
    """
    if specs is not None:
        return {spec: load_tree(spec, NUM_HEADS) for spec in specs}
    trees = {f"{_PRESET}:{nodes}": load_tree(f"{_PRESET}:{nodes}") for nodes in (8, 16, 32, 64)}
    return trees | {"grown:128": grow_tree(128)}


def grow_tree(nodes: int) -> Tree:
    """The most likely nodes when head k's r-th guess (k, r from 0) is right with 0.6 * 0.8^k / 2^r.

    Greedy growth as in the paper, section 2.3.3, with made-up accuracies for `NUM_HEADS` heads.
    """
    paths: list[tuple[int, ...]] = []
    best: list[tuple[float, tuple[int, ...]]] = [(-0.6, (0,))]
    for _ in range(nodes - 1):
        minus_p, path = heapq.heappop(best)
        paths.append(path)
        # The next guess of the same head, and the first one of the next head.
        heapq.heappush(best, (minus_p / 2, (*path[:-1], path[-1] + 1)))
        if len(path) < NUM_HEADS:
            heapq.heappush(best, (minus_p * 0.6 * 0.8 ** len(path), (*path, 0)))
    return build_tree(paths)


def _backbone_shapes(config: LlamaConfig) -> Any:
    one = jnp.zeros((1, 1), jnp.int32)
    init = Llama(config).init
    forward = lambda m, *args: m.logits(m(*args)[0])  # noqa: E731
    return jax.eval_shape(
        lambda key: init(key, one, one, causal_mask(1), method=forward), jax.random.key(0)
    )["params"]


def _random_like(shapes: Any, seed: int, dtype: str) -> Any:
    """Leaf by leaf: a single program would hold the bits of all leaves at once."""
    fill = jax.jit(_fill, static_argnums=(1, 2))
    numbers, key = itertools.count(), jax.random.key(seed)
    return jax.tree.map(
        lambda leaf: fill(jax.random.fold_in(key, next(numbers)), leaf.shape, dtype), shapes
    )


def _fill(key: jax.Array, shape: tuple[int, ...], dtype: str) -> jax.Array:
    if len(shape) == 1:  # the scales of norms
        return jnp.ones(shape, dtype)
    return jax.random.normal(key, shape, jnp.dtype(dtype)) * 0.02
