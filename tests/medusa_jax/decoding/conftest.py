"""A small real model with heads that are right now and then."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

import medusa_jax
from medusa_jax.config import MedusaConfig
from medusa_jax.io.heads.save import save_heads
from medusa_jax.nn.heads import init_heads


@pytest.fixture(scope="module")
def stories_heads(stories260k, tmp_path_factory):
    """Heads that are right now and then: the LM head with noise."""
    lm = medusa_jax.load(str(stories260k), "none")
    config = MedusaConfig(num_heads=4, hidden_size=64, vocab_size=512)
    params = init_heads(config, lm.params["embed"]["weight"], jnp.float32)
    noise = np.random.default_rng(0).normal(size=params["blocks"]["weight"].shape) * 0.05
    params["blocks"]["weight"] = jnp.asarray(noise, jnp.float32)
    folder = tmp_path_factory.mktemp("heads")
    save_heads(folder, config, params, format="C", base_model="stories260K", vocab_size=512)
    return folder


@pytest.fixture(scope="module")
def stories_lm(stories260k, stories_heads):
    return medusa_jax.load(str(stories260k), str(stories_heads), tree="mc_sim_7b_63")


@pytest.fixture(scope="module")
def short_lm(stories_lm):
    """Its first two of five layers, for tests that compile much and do not read the text."""
    config = dataclasses.replace(stories_lm.config, num_layers=2)
    cut = ("layers_2", "layers_3", "layers_4")
    params = {name: value for name, value in stories_lm.params.items() if name not in cut}
    return dataclasses.replace(stories_lm, config=config, params=params)
