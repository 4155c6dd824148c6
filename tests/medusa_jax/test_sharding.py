"""Tests medusa_jax/sharding.py on 8 fake devices."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.traverse_util import flatten_dict
from jax.sharding import PartitionSpec as P

from medusa_jax import sharding
from medusa_jax.io.hf.weights import abstract_params
from medusa_jax.mesh import make_mesh
from medusa_jax.nn.heads import init_heads
from medusa_jax.nn.lora import init_lora
from medusa_jax.sharding import param_shardings
from tests.medusa_jax.tiny import CONFIG, tiny_lm

LAYER = {
    ("attn_norm", "scale"): P(None),
    ("attn", "q", "weight"): P("tensor", "fsdp"),
    ("attn", "k", "weight"): P("tensor", "fsdp"),
    ("attn", "v", "weight"): P("tensor", "fsdp"),
    ("attn", "o", "weight"): P("fsdp", "tensor"),
    ("mlp_norm", "scale"): P(None),
    ("mlp", "gate", "weight"): P("tensor", "fsdp"),
    ("mlp", "up", "weight"): P("tensor", "fsdp"),
    ("mlp", "down", "weight"): P("fsdp", "tensor"),
}
HEADS = {
    ("blocks", "weight"): P(None, None, "tensor", "fsdp"),
    ("blocks", "bias"): P(None, None, "tensor"),
    ("projection", "weight"): P(None, "tensor", "fsdp"),
    ("root", "weight"): P(None, "tensor", "fsdp"),
    ("branch", "weight"): P(None, "tensor", "fsdp"),
    ("cell_token", "weight"): P("tensor", "fsdp"),
    ("cell_token", "bias"): P("tensor"),
    ("cell_out", "weight"): P("tensor", "fsdp"),
    ("markov_in", "weight"): P(None, "fsdp"),
    ("markov_out", "weight"): P("tensor", None),
    ("markov_gate", "weight"): P(None, None),
    ("token_map",): P(None),
}


def specs(tree) -> dict:
    return {path: leaf.spec for path, leaf in flatten_dict(tree).items()}


def struct(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def test_backbone():
    found = specs(param_shardings(make_mesh(2, 2, 2), abstract_params(CONFIG, jnp.float32)))
    expected = {(f"layers_{i}", *path): spec for i in (0, 1) for path, spec in LAYER.items()}
    expected |= {
        ("embed", "weight"): P("tensor", "fsdp"),
        ("final_norm", "scale"): P(None),
        ("lm_head", "weight"): P("tensor", "fsdp"),
    }
    assert found == expected


def test_heads():
    shapes = {
        "blocks": {"weight": struct(5, 2, 16, 16), "bias": struct(5, 2, 16)},
        "projection": {"weight": struct(5, 24, 16)},
        "root": {"weight": struct(5, 16, 16)},
        "branch": {"weight": struct(15, 16, 16)},
        "cell_token": {"weight": struct(16, 16), "bias": struct(16)},
        "cell_out": {"weight": struct(16, 16)},
        "markov_in": {"weight": struct(2, 16)},
        "markov_out": {"weight": struct(24, 2)},
        "markov_gate": {"weight": struct(2, 18)},
        "token_map": struct(24),
    }
    assert specs(param_shardings(make_mesh(2, 2, 2), shapes)) == HEADS


def test_what_was_taken_out_of_a_stack_lies_as_it_did_there():
    pieces = {
        "blocks": [{"weight": struct(16, 16), "bias": struct(16)}] * 2,
        "branch": [{"weight": {"values": struct(16, 16), "scale": struct(16, 1)}}],
        "cell_out": {"weight": struct(16, 16)},
    }
    found = param_shardings(make_mesh(2, 2, 2), {"each": [pieces]})["each"][0]
    assert found["blocks"][1]["weight"].spec == P("tensor", "fsdp")
    assert found["blocks"][1]["bias"].spec == P("tensor")
    assert found["branch"][0]["weight"]["values"].spec == P("tensor", "fsdp")
    assert found["branch"][0]["weight"]["scale"].spec == P("tensor", None)
    assert found["cell_out"]["weight"].spec == P("tensor", "fsdp")


def test_lora_follows_the_weights():
    lora = init_lora(abstract_params(CONFIG, jnp.float32), 2, jax.random.key(0), jnp.float32)
    found = specs(param_shardings(make_mesh(2, 2, 2), lora))
    assert found["layers_1", "attn", "q", "a"] == P(None, "fsdp")
    assert found["layers_1", "attn", "q", "b"] == P("tensor", None)
    assert found["layers_1", "mlp", "down", "a"] == P(None, "tensor")
    assert found["layers_1", "mlp", "down", "b"] == P("fsdp", None)
    assert found["lm_head", "b"] == P("tensor", None)


def test_biases_and_quantised_weights():
    shapes = {
        "q": {"weight": {"values": struct(16, 16), "scale": struct(16)}, "bias": struct(16)},
        "o": {"bias": struct(16)},
    }
    assert specs(param_shardings(make_mesh(2, 2, 2), shapes)) == {
        ("q", "weight", "values"): P("tensor", "fsdp"),
        ("q", "weight", "scale"): P(None),
        ("q", "bias"): P("tensor"),
        ("o", "bias"): P("fsdp"),
    }


def test_optimizer_state_lies_where_its_parameters_lie():
    mesh = make_mesh(2, 2, 2)
    lm = tiny_lm()
    params = {"backbone": lm.params, "heads": lm.heads_params}
    state = jax.eval_shape(optax.partition({"all": optax.adamw(0.1)}, "all").init, params)
    wanted = param_shardings(mesh, params)
    found = param_shardings(mesh, state)
    adam = found.inner_states["all"].inner_state[0]
    assert adam.count == sharding.replicated(mesh)
    assert adam.mu == wanted
    assert adam.nu == wanted


def test_factored_moments_are_replicated():
    state = jax.eval_shape(
        optax.scale_by_factored_rms(min_dim_size_to_factor=8).init,
        {"q": {"weight": struct(16, 16)}},
    )
    found = param_shardings(make_mesh(2, 2, 2), state)
    assert found.v_row["q"]["weight"].is_fully_replicated


def test_dimensions_that_do_not_divide_are_not_split():
    mesh = make_mesh(1, 2, 4)
    assert sharding.logical_sharding(mesh, ("vocab", "embed"), (10, 16)).spec == P(None, "fsdp")
    assert sharding.logical_sharding(mesh, ("vocab", "embed"), (12, 15)).spec == P("tensor", None)


def test_one_mesh_axis_twice_is_refused():
    mesh = make_mesh(1, 2, 4)
    with pytest.raises(ValueError, match="twice"):
        sharding.logical_sharding(mesh, ("vocab", "mlp"), (8, 8))
    with pytest.raises(ValueError, match="twice"):
        sharding.logical_sharding(mesh, ("batch", "embed"), (8, 8))


def test_batches_are_split_over_data_and_fsdp():
    mesh = make_mesh(2, 2, 2)
    batch = jax.device_put(np.arange(24).reshape(8, 3), sharding.batch_sharding(mesh, 2))
    assert {shard.data.shape for shard in batch.addressable_shards} == {(2, 3)}
    assert len({shard.index[0].start for shard in batch.addressable_shards}) == 4
    assert sharding.batch_sharding(mesh, 1).spec == P(("data", "fsdp"))


def test_with_shardings():
    mesh = make_mesh(1, 2, 4)
    params = {"q": {"weight": jnp.zeros((8, 4), jnp.bfloat16)}}
    leaf = sharding.with_shardings(params, param_shardings(mesh, params))["q"]["weight"]
    assert (leaf.shape, leaf.dtype) == ((8, 4), jnp.bfloat16)
    assert leaf.sharding.spec == P("tensor", "fsdp")


def test_heads_of_a_sharded_lm_head_start_sharded():
    mesh = make_mesh(1, 2, 4)
    lm = tiny_lm()

    def init(lm_head_VD):
        return init_heads(lm.heads_config, lm_head_VD, jnp.float32)

    shapes = jax.eval_shape(init, struct(24, 16))
    shardings = param_shardings(mesh, shapes)
    heads = jax.jit(init, out_shardings=shardings)(lm.params["lm_head"]["weight"])
    assert jax.tree.map(lambda array: array.sharding, heads) == shardings
