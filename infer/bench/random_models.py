"""Models with random weights, and trees to decode them with."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from medusa_jax.config import MedusaConfig
from medusa_jax.io.hf.weights import abstract_params
from medusa_jax.model import MedusaLM
from medusa_jax.model_shapes import SHAPES, random_like
from medusa_jax.nn.heads import init_heads
from medusa_jax.tree.build import Tree, build_tree
from medusa_jax.tree.presets import load_tree
from medusa_jax.tree.search import search_tree

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
        tree=build_tree([]),
    )


def shape_trees(specs: Sequence[str] | None) -> dict[str, Tree]:
    """Trees by name.

    Args:
      specs: see `load_tree`; None: sizes 8 to 64 of a published tree and, as published trees end
        there, a grown one of 128.

    Raises:
      UserError: an unknown tree, or one that needs more than five heads.
    """
    if specs is not None:
        return {spec: load_tree(spec, NUM_HEADS) for spec in specs}
    trees = {f"{_PRESET}:{nodes}": load_tree(f"{_PRESET}:{nodes}") for nodes in (8, 16, 32, 64)}
    return trees | {"grown:128": grow_tree(128)}


def grow_tree(nodes: int) -> Tree:
    """The best tree when head k's r-th guess (both from 0) is right with 0.6 * 0.8^k / 2^r.

    Made-up accuracies, of about the kind that trained heads have.
    """
    rank_1K = np.arange(nodes)[None]
    accuracy_MK = 0.6 * 0.8 ** np.arange(NUM_HEADS)[:, None] / 2.0**rank_1K
    return build_tree(search_tree(accuracy_MK, nodes - 1))
