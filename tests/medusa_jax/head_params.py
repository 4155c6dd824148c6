"""Small random heads, and what it means that two of them are the same."""

import jax
import numpy as np

from medusa_jax.config import MedusaConfig

M, D, V = 3, 8, 24
TOKEN_MAP = np.array([7, 0, 23, 4, 11], np.int32)


def random_heads(config: MedusaConfig, dtype=np.float32) -> dict:
    """NumPy parameters in the layout of `medusa_jax.nn.heads`."""
    rng = np.random.default_rng(0)

    def draw(*shape):
        return rng.normal(size=shape).astype(dtype)

    blocks = {"weight": draw(config.num_heads, config.num_layers, D, D)}
    if config.bias:
        blocks["bias"] = draw(config.num_heads, config.num_layers, D)
    params = {"blocks": blocks}
    if config.root_conditioned:
        params["root"] = {"weight": draw(config.num_heads, D, D)}
    if config.own_projection:
        params["projection"] = {"weight": draw(config.num_heads, config.vocab_size, D)}
    if config.draft_vocab:
        params["token_map"] = TOKEN_MAP
    return params


def assert_same(loaded, config: MedusaConfig, params: dict):
    """Equal configuration, tree, dtypes and bits."""
    found_config, found = loaded
    assert found_config == config
    assert jax.tree.structure(found) == jax.tree.structure(params)
    for mine, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(params), strict=True):
        assert (mine.dtype, mine.shape) == (theirs.dtype, theirs.shape)
        assert np.ascontiguousarray(mine).tobytes() == np.ascontiguousarray(theirs).tobytes()
