"""The tiny model with heads of several kinds, and conversations to measure them on."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from medusa_jax.chat import Example
from medusa_jax.config import MedusaConfig
from medusa_jax.nn.heads import init_heads
from medusa_jax.tree.build import build_tree
from tests.medusa_jax.tiny import tiny_lm

V, D = 24, 16
DRAFT = np.asarray([0, 2, 3, 5, 7, 11, 13, 17, 19, 23])
PATHS = [[0], [1], [2], [0, 0], [0, 1], [1, 0], [0, 0, 0], [3], [0, 2], [2, 1], [2, 1, 0]]
TREE = build_tree(PATHS)


def lm_with(kind):
    """The tiny model with random heads of a kind."""
    lm = tiny_lm("chain:0")
    if kind == "none":
        return dataclasses.replace(lm, heads_config=None, heads_params=None)
    if kind == "shared":
        return lm
    corrects = kind == "own, markov"
    config = MedusaConfig(
        num_heads=4,
        hidden_size=D,
        vocab_size=len(DRAFT) if kind == "draft" else V,
        num_layers=2,
        own_projection=kind.startswith("own"),
        draft_vocab=kind == "draft",
        conditioning="root" if kind == "draft" else "markov" if corrects else "none",
        markov_rank=3 if corrects else 0,
    )
    token_map = jnp.asarray(DRAFT, jnp.int32) if kind == "draft" else None
    params = init_heads(config, lm.params["lm_head"]["weight"], jnp.float32, token_map)
    rng = np.random.default_rng(1)
    noisy = {
        name: jax.tree.map(lambda x: x + rng.normal(size=x.shape).astype(np.float32) * 0.2, part)
        for name, part in params.items()
        if name != "token_map"
    }
    return dataclasses.replace(lm, heads_config=config, heads_params=params | noisy)


def conversations():
    """Lengths on both sides of the padded widths; replies that touch both ends."""
    rng = np.random.default_rng(2)
    out = []
    for length in (2, 9, 64, 65, 97):
        is_label = rng.random(length) < 0.1
        is_label[length // 3 : length // 2] = True
        is_label[[0, 1, -1]] = True
        out.append(Example(rng.integers(0, V, length).astype(np.int32), is_label))
    return out
