"""Models with random weights, and trees to decode them with."""

import heapq
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from medusa_jax.config import MedusaConfig
from medusa_jax.io.hf.weights import abstract_params
from medusa_jax.model import MedusaLM
from medusa_jax.model_shapes import SHAPES, random_like
from medusa_jax.nn.heads import init_heads
from medusa_jax.tree.build import Tree, build_tree, load_tree

NUM_HEADS = 5
_PRESET = "mc_sim_7b_63"


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
        params=random_like(abstract_params(config, dtype), 0),
        heads_config=heads,
        heads_params=random_like(head_shapes, 1),
        tokenizer=None,
        eos_ids=(),
        dtype=dtype,
        tree=jax.device_put(build_tree([])),
    )


def shape_trees(specs: Sequence[str] | None) -> dict[str, Tree]:
    """Trees by name.

    Args:
      specs: see `medusa_jax.tree.build.load_tree`; None: sizes 8 to 64 of a published tree and, as
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
