"""Adapters: what they are attached to, what they add, and that merging them adds the same."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax.traverse_util import flatten_dict, unflatten_dict

from medusa_jax.io.hf.weights import abstract_params
from medusa_jax.nn.layers import Linear
from medusa_jax.nn.llama import Llama, causal_mask
from medusa_jax.nn.lora import Lora, adapted, dropped, init_lora, merge_lora
from medusa_jax.nn.params import Param
from medusa_jax.objectives.logits import lm_head_logits, lm_heads
from tests.medusa_jax.packed import SMALL, TIED, quick_jit, random_backbone, random_lora
from tests.medusa_jax.tiny import CONFIG

SCALE = 0.4
TOKEN_BT = np.random.default_rng(0).integers(0, 24, (2, 9)).astype(np.int32)
BIASED = dataclasses.replace(SMALL, qkv_bias=True, o_bias=True, mlp_bias=True, qk_norm=True)


def forward(config, backbone, lora=None, *, scale=SCALE, dropout=0.0, key=None, remat=False):
    """Hidden states, and logits of the LM head, with its adapter if there is one."""
    llama = Llama(config, remat=remat)
    lm_head, _ = lm_heads({"backbone": backbone, "lora": lora})
    position_BT = jnp.broadcast_to(jnp.arange(9, dtype=jnp.int32)[None], (2, 9))
    variables = {"params": backbone}
    lora = None if lora is None else Lora(lora, scale, dropout, key)
    hidden, _ = llama.apply(variables, TOKEN_BT, position_BT, causal_mask(9), lora=lora)
    return hidden, lm_head_logits(lm_head, hidden, dtype="float32", lora_scale=scale)


jitted = quick_jit(forward, static_argnums=0, static_argnames=("scale", "dropout", "remat"))


def assert_close(got, wanted, tolerance=2e-5):
    scale = np.abs(np.asarray(wanted)).max()
    np.testing.assert_allclose(got, wanted, rtol=0, atol=tolerance * scale)


@pytest.mark.parametrize("config", [CONFIG, TIED, BIASED], ids=["untied", "tied", "biased"])
def test_adapted_network_equals_the_merged_one(config):
    backbone = random_backbone(config)
    lora = random_lora(backbone)
    merged = quick_jit(merge_lora)(backbone, lora, SCALE)
    untied = dataclasses.replace(config, tie_embeddings=False)
    assert flatten_dict(merged).keys() == flatten_dict(abstract_params(untied, jnp.float32)).keys()
    np.testing.assert_array_equal(merged["embed"]["weight"], backbone["embed"]["weight"])
    adapted = jitted(config, backbone, lora)
    for got, wanted in zip(adapted, jitted(untied, merged), strict=True):
        assert_close(got, wanted)
    for got, original in zip(adapted, jitted(config, backbone), strict=True):
        assert np.abs(got - original).max() > 0.1  # else nothing was adapted


def test_merged_weights():
    backbone = random_backbone(SMALL)
    lora = random_lora(backbone)
    merged = flatten_dict(quick_jit(merge_lora)(backbone, lora, SCALE))
    adapters = flatten_dict(lora)
    for path, weight in flatten_dict(backbone).items():
        a, b = (adapters.get((*path[:-1], name)) for name in "ab")
        wanted = weight if a is None else weight + SCALE * np.asarray(b) @ np.asarray(a)
        np.testing.assert_allclose(merged[path], wanted, rtol=1e-5, atol=1e-6)


def test_merged_weights_keep_their_dtype():
    backbone = jax.tree.map(lambda x: jnp.asarray(x, jnp.bfloat16), random_backbone(TIED))
    merged = merge_lora(backbone, random_lora(backbone), SCALE)
    assert {x.dtype for x in jax.tree.leaves(merged)} == {jnp.dtype("bfloat16")}


@pytest.mark.parametrize("config", [CONFIG, TIED, BIASED], ids=["untied", "tied", "biased"])
def test_every_matrix_of_the_layers_and_the_lm_head_are_adapted(config):
    rank = 3
    abstract = abstract_params(config, jnp.float32)
    lora = init_lora(abstract, rank, jax.random.key(0), jnp.bfloat16)
    shapes = {path: x.shape for path, x in flatten_dict(abstract).items()}
    layers = range(config.num_layers)
    names = ["attn/q", "attn/k", "attn/v", "attn/o", "mlp/gate", "mlp/up", "mlp/down"]
    paths = {tuple(f"layers_{i}/{name}".split("/")) for i in layers for name in names}
    flat = flatten_dict(lora)
    assert {path[:-1] for path in flat} == paths | {("lm_head",)}
    shapes |= {("lm_head", "weight"): (24, 16)}
    for path in paths | {("lm_head",)}:
        out, into = shapes[(*path, "weight")]
        a, b = flat[(*path, "a")], flat[(*path, "b")]
        assert (a.shape, b.shape) == ((rank, into), (out, rank))
        assert a.dtype == b.dtype == jnp.bfloat16
        assert not b.any()
        assert 0.5 < np.abs(a.astype(np.float32)).max() * into**0.5 <= 1.01
    o, q = (flat[("layers_0", "attn", name, "a")] for name in "oq")  # of one shape
    assert np.abs((o - q).astype(np.float32)).max() > 0.01


def test_parameters_and_their_shapes_make_the_same_adapters():
    made = [
        init_lora(shapes, 2, jax.random.key(1), jnp.float32)
        for shapes in (abstract_params(SMALL, jnp.float32), random_backbone(SMALL))
    ]
    jax.tree.map(np.testing.assert_array_equal, *made)


def test_fresh_adapters_change_nothing():
    backbone = random_backbone(SMALL)
    lora = init_lora(backbone, 4, jax.random.key(0), jnp.float32)
    for got, wanted in zip(jitted(SMALL, backbone, lora), jitted(SMALL, backbone), strict=True):
        np.testing.assert_array_equal(got, wanted)


@pytest.mark.parametrize("remat", [False, True])
def test_gradients_reach_both_factors_of_every_adapter(remat):
    backbone = random_backbone(SMALL)

    def loss(lora):
        hidden, logits = forward(SMALL, backbone, lora, remat=remat)
        return (hidden**2).sum() + jax.nn.logsumexp(logits, axis=-1).sum()

    for path, gradient in flatten_dict(quick_jit(jax.grad(loss))(random_lora(backbone))).items():
        assert np.abs(gradient).max() > 0, path


def test_dropout_follows_its_key():
    backbone = random_backbone(SMALL)
    lora = random_lora(backbone)
    keys = [jax.random.key(0), jax.random.key(0), jax.random.key(1)]
    one, same, other = (jitted(SMALL, backbone, lora, dropout=0.5, key=k)[0] for k in keys)
    np.testing.assert_array_equal(one, same)
    assert np.abs(one - other).max() > 0.1
    assert np.abs(one - jitted(SMALL, backbone, lora)[0]).max() > 0.1


class TwoMaps(nn.Module):
    """Two linear maps of one input, both the identity."""

    @nn.compact
    def __call__(self, x, lora):
        records = {"weight": Param((8, 8), (None, None), nn.initializers.zeros, {})}
        return [adapted(Linear(records, jnp.float32, name=name), x, lora) for name in "xy"]


@pytest.mark.parametrize("remat", [False, True])
def test_modules_drop_different_inputs(remat):
    """Equal adapters of two linear maps, on the same input."""
    module = nn.remat(TwoMaps) if remat else TwoMaps
    one = np.eye(8, dtype=np.float32)
    variables = {"params": {name: {"weight": one} for name in "xy"}}

    def maps(key):
        lora = Lora({name: {"a": one, "b": one} for name in "xy"}, SCALE, 0.5, key)
        return module().apply(variables, jnp.ones((4, 8)), lora)

    np.testing.assert_array_equal(*quick_jit(maps)(None))
    x, y = quick_jit(maps)(jax.random.key(0))
    assert set(np.unique(x)) == {np.float32(1), np.float32(1 + 2 * SCALE)}
    assert (x != y).any()


def test_every_adapter_of_every_layer_drops_inputs_of_its_own():
    one = {"a": np.eye(64, dtype=np.float32), "b": np.eye(64, dtype=np.float32)}
    paths = [("attn", "q"), ("attn", "k"), ("mlp", "up")]
    layer = unflatten_dict(dict.fromkeys(paths, one))
    layers = {f"layers_{i}": layer for i in range(3)}
    lora = Lora(layers | {"lm_head": one}, 1.0, 0.5, jax.random.key(0))
    adapters = [lora.layer(i).part(a).part(b) for i in range(3) for a, b in paths]
    x = jnp.ones((1, 64), jnp.float32)
    kept = {
        np.asarray(part(x, jnp.float32)).tobytes() for part in (*adapters, lora.part("lm_head"))
    }
    assert len(kept) == 10


def test_a_module_without_adapters_is_left_as_it_is():
    backbone = random_backbone(SMALL)
    lora = random_lora(backbone)
    lora["layers_0"] = {"mlp": lora["layers_0"]["mlp"]}
    merged = quick_jit(merge_lora)(backbone, lora, SCALE)
    for got, wanted in zip(jitted(SMALL, backbone, lora), jitted(SMALL, merged), strict=True):
        assert_close(got, wanted)


def test_dropout_keeps_the_expectation():
    x = jnp.asarray([[1.0, -2.0, 3.0]])
    keys = jax.random.split(jax.random.key(0), 4000)
    draws = quick_jit(jax.vmap(lambda key: dropped(x, 0.25, key)))(keys)
    dropped_share = (draws == 0).mean()
    np.testing.assert_allclose(dropped_share, 0.25, atol=0.02)
    np.testing.assert_allclose(draws.mean(0), x, rtol=0.05)
    np.testing.assert_allclose(np.unique(draws), np.array([-2, 0, 1, 3]) / 0.75, rtol=1e-6)


def test_dropped_inputs_keep_their_dtype():
    x = jnp.ones((4, 4), jnp.bfloat16)
    assert dropped(x, 0.5, jax.random.key(0)).dtype == jnp.bfloat16
    assert dropped(x, 0.5, None) is x
