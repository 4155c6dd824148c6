"""Records of parameters against what the networks declare, and what is derived from them."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medusa_jax.config import MedusaConfig
from medusa_jax.mesh import make_mesh
from medusa_jax.nn.heads import MedusaHeads, init_heads
from medusa_jax.nn.llama import Llama, causal_mask, lm_head_weight
from medusa_jax.nn.params import backbone_params, by_path, heads_config_of, heads_params, untied
from medusa_jax.sharding import logical_sharding
from tests.medusa_jax.tiny import CONFIG

FLAGS = ("tie_embeddings", "qkv_bias", "o_bias", "mlp_bias", "qk_norm")
BACKBONES = [CONFIG, *(dataclasses.replace(CONFIG, **{flag: True}) for flag in FLAGS)]
HEADS = [
    MedusaConfig(3, 8, 24, num_layers=layers, bias=bias, own_projection=own, conditioning=root)
    for layers, bias, own, root in itertools.product(
        (1, 2), (False, True), (False, True), ("none", "root")
    )
]
HEADS += [
    MedusaConfig(3, 8, 24, num_layers=2, conditioning="branch", bias=False),
    MedusaConfig(3, 8, 24, num_layers=2, conditioning="recurrent"),
    MedusaConfig(3, 8, 24, conditioning="markov", markov_rank=2),
    MedusaConfig(3, 8, 24, conditioning="gated_markov", markov_rank=2),
]


def shapes(tree):
    return {path: tuple(leaf.shape) for path, leaf in by_path(tree).items()}


@pytest.mark.parametrize("config", BACKBONES)
def test_the_backbone_declares_its_records(config):
    token_BT = jnp.zeros((1, 3), jnp.int32)
    init = Llama(config).init
    declared = jax.eval_shape(init, jax.random.key(0), token_BT, token_BT, causal_mask(3))["params"]
    records = by_path(backbone_params(config))
    # The LM head is declared by whoever asks for logits.
    wanted = {path: p.shape for path, p in records.items() if path[0] != "lm_head"}
    assert shapes(declared) == wanted
    assert (("lm_head", "weight") in records) is not config.tie_embeddings


@pytest.mark.parametrize("config", HEADS)
def test_the_heads_declare_their_records(config):
    def init(key):
        return MedusaHeads(config).init(key, jnp.ones(8), jnp.ones((24, 8)), jnp.ones((3, 8)))

    declared = jax.eval_shape(init, jax.random.key(0))["params"]
    assert shapes(declared) == shapes(heads_params(config))


def test_every_parameter_has_names_of_its_own_and_axes_that_split():
    mesh = make_mesh(2, 2, 2)
    for config in BACKBONES:
        records = by_path(backbone_params(config))
        for kind in ("hf", "gguf"):
            assert len({record.names[kind] for record in records.values()}) == len(records)
        for record in records.values():
            logical_sharding(mesh, record.axes, record.shape)  # raises for what it does not know
    for config in HEADS:
        for record in by_path(heads_params(config)).values():
            logical_sharding(mesh, record.axes, record.shape)
            assert "medusa" in record.names


@pytest.mark.parametrize("config", HEADS)
def test_a_configuration_is_found_again_in_its_parameters(config):
    lm_head_VD = jnp.ones((24, 8))
    assert heads_config_of(init_heads(config, lm_head_VD, jnp.float32), 24) == config
    draft = dataclasses.replace(config, vocab_size=5, draft_vocab=True)
    params = init_heads(draft, lm_head_VD, jnp.float32, np.arange(5))
    assert heads_config_of(params, 24) == draft


def test_a_tied_lm_head_is_the_embedding():
    embed, own = {"weight": jnp.ones((3, 2))}, {"weight": jnp.zeros((3, 2))}
    assert lm_head_weight({"embed": embed}) is embed["weight"]
    assert lm_head_weight({"embed": embed, "lm_head": own}) is own["weight"]
    assert untied({"embed": embed})["embed"] is embed
