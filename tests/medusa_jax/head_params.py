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

    shared = config.conditioning == "recurrent"
    blocks = {"weight": draw(1 if shared else config.num_heads, config.num_layers, D, D)}
    if config.bias:
        blocks["bias"] = draw(config.num_heads, config.num_layers, D)
    params = {"blocks": blocks}
    params |= conditioning(config, draw)
    if config.own_projection:
        params["projection"] = {"weight": draw(config.num_heads, config.vocab_size, D)}
    if config.draft_vocab:
        params["token_map"] = TOKEN_MAP
    return params


def conditioning(config: MedusaConfig, draw, D: int = D) -> dict:
    """What heads have that see more than the hidden state, written down by kind."""
    heads, rank, kind = config.num_heads, config.markov_rank, config.conditioning
    params = {}
    if kind in ("root", "markov", "gated_markov"):
        params["root"] = {"weight": draw(heads, D, D)}
    if kind == "branch":
        params["branch"] = {"weight": draw(sum(range(heads + 1)), D, D)}
    if kind == "recurrent":
        params["cell_token"] = {"weight": draw(D, D), "bias": draw(D)}
        params |= {name: {"weight": draw(D, D)} for name in ("cell_state", "cell_out")}
    if kind in ("markov", "gated_markov"):
        params["markov_in"] = {"weight": draw(rank, D)}
        params["markov_out"] = {"weight": draw(config.vocab_size, rank)}
    if kind == "gated_markov":
        params["markov_gate"] = {"weight": draw(rank, D + rank)}
    return params


def assert_same(loaded, config: MedusaConfig, params: dict):
    """Equal configuration, tree, dtypes and bits."""
    found_config, found = loaded
    assert found_config == config
    assert jax.tree.structure(found) == jax.tree.structure(params)
    for mine, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(params), strict=True):
        assert (mine.dtype, mine.shape) == (theirs.dtype, theirs.shape)
        assert np.ascontiguousarray(mine).tobytes() == np.ascontiguousarray(theirs).tobytes()
