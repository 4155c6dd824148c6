"""The program that is planned is the one that runs: its static description and its arguments."""

import dataclasses

import jax
import numpy as np
import pytest

from infer.planning.abstract import Wish, decode_program
from medusa_jax.decoding import step
from medusa_jax.decoding.runtime import Clock, make_request, make_runtime
from medusa_jax.io.load import for_decoding
from medusa_jax.mesh import parse_mesh
from medusa_jax.sharding import param_shardings
from tests.infer.planning.wishes import wish
from tests.medusa_jax.branch_heads import branch_lm
from tests.medusa_jax.tiny import tiny_lm

TOKEN_MAP = np.array([3, 20, 7, 11], np.int32)
MODELS = {
    "static tree": lambda: tiny_lm("mc_sim_7b_63"),
    "branch": lambda: branch_lm("branch", "chain:3"),
    "dynamic tree": lambda: branch_lm("recurrent", "dynamic:8", num_layers=2),
    "draft vocabulary": lambda: tiny_lm("chain:4", token_map=TOKEN_MAP),
}


@pytest.mark.parametrize(("context", "slots"), [(1000, 1024), (1100, 1536), (3100, 4096)])
def test_slots_are_those_of_a_bucket(context, slots):
    """Room for the tokens and a draft after them."""
    wanted = dataclasses.replace(wish("mc_sim_7b_63:16", "tpu"), max_context=context)
    _, state, *_ = decode_program(wanted, jax.devices()[0]).arguments
    assert state.cache.capacity == slots


def spread(lm, mesh):
    params, heads = (
        jax.device_put(x, param_shardings(mesh, x)) for x in (lm.params, lm.heads_params)
    )
    return dataclasses.replace(lm, params=params, heads_params=heads)


def assert_same_arrays(planned, real):
    assert jax.tree.structure(planned) == jax.tree.structure(real)
    pairs = zip(jax.tree.leaves_with_path(planned), jax.tree.leaves(real), strict=True)
    for (path, mine), theirs in pairs:
        assert (mine.shape, mine.dtype) == (theirs.shape, theirs.dtype), path
        assert mine.sharding.is_equivalent_to(theirs.sharding, theirs.ndim), path


@pytest.mark.parametrize("place", [None, "tensor=4"])
@pytest.mark.parametrize("quantize", ["none", "int8"])
@pytest.mark.parametrize("model", MODELS)
def test_arguments_are_those_of_a_model_that_is_there(model, quantize, place):
    lm = MODELS[model]()
    sizes = {"batch_size": 2, "max_context": 100, "dtype": "float32", "platform": "cpu"}
    wanted = Wish(lm.config, lm.heads_config, lm.tree, quantize=quantize, **sizes)
    mesh = place and parse_mesh(place)
    planned = decode_program(wanted, mesh or jax.devices()[0])
    runtime = make_runtime(for_decoding(spread(lm, mesh) if mesh else lm, mesh, quantize))
    assert (planned.decoder, planned.mesh) == (runtime.decoder, runtime.mesh)
    idle = runtime.put(make_request([0] * 2))
    state = runtime.run(Clock(), step.idle, idle, capacity=planned.arguments[1].cache.capacity)
    assert_same_arrays(planned.arguments[:2], (runtime.params, state))
