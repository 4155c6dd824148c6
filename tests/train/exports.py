"""Random heads and adapters of the random model, and how they are exported."""

import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from configs import base as base_recipe
from medusa_jax.config import MedusaConfig
from medusa_jax.nn.heads import init_heads
from medusa_jax.nn.lora import init_lora
from train.export_files import export
from train.random_model import RANDOM_TINY
from train.recipe import make_settings

SCALE = 0.5
TOKEN_MAP = np.array([3, 5, 70, 71, 200], np.int32)
OWN = MedusaConfig(2, 64, 264, own_projection=True)
SHARED = MedusaConfig(2, 64, 264, num_layers=2)
ROOT = dataclasses.replace(SHARED, conditioning="root")
DRAFT = dataclasses.replace(SHARED, vocab_size=5, draft_vocab=True)


def noisy(tree, seed=0):
    """Every float leaf of a tree with noise added, so that none is mistaken for another."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: x + (rng.normal(size=x.shape) * 0.05).astype(x.dtype), tree)


def random_heads(config: MedusaConfig, base, dtype=jnp.float32):
    token_map = TOKEN_MAP if config.draft_vocab else None
    heads = init_heads(config, base.params["embed"]["weight"], dtype, token_map)
    return noisy({name: part for name, part in heads.items() if name != "token_map"})


def random_lora(base):
    return noisy(init_lora(base.params, 4, jax.random.key(0), jnp.float32))


def write(folder, base, params, format, dtype="float32"):
    options = {"base": base, "base_name": "org/base", "params": params, "lora_scale": SCALE}
    export(folder, format=format, dtype=dtype, **options)
    return folder


def assert_same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert x.dtype == y.dtype
        assert np.asarray(x).tobytes() == np.asarray(y).tobytes()


def settings_in(folder: Path) -> dict:
    return json.loads((folder / "config.json").read_text())


def recipe(**changes):
    values = base_recipe.get_config().to_dict() | {"model": RANDOM_TINY, "data": "x.jsonl"}
    return make_settings(ConfigDict(values | changes))
