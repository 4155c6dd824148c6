"""Decoding on several devices: the tokens of one, and no collective of the cache's size."""

import dataclasses
import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

import medusa_jax
from medusa_jax.decoding import programs, step
from medusa_jax.decoding.options import GenerationConfig, make_rule, rule_numbers
from medusa_jax.decoding.runtime import make_request, make_runtime
from medusa_jax.errors import UserError
from medusa_jax.io.load import for_decoding
from medusa_jax.mesh import parse_mesh
from medusa_jax.sharding import param_shardings, replicated
from tests.medusa_jax.branch_heads import branch_lm
from tests.medusa_jax.decoding.batches import PROMPTS, decoded, queued, rows
from tests.medusa_jax.decoding.drafting.test_branch_drafters import in_8_bits, slow_steps
from tests.medusa_jax.tiny import CONFIG, tiny_lm

WIDE = dataclasses.replace(CONFIG, num_heads=8, num_layers=1)
TOKEN_MAP = np.asarray([1, 2, 4, 5, 7, 8, 9, 11, 13, 14, 17, 18, 20, 22, 0, 3], np.int32)


@functools.cache
def model(kv_heads=4, tied=False, draft=False, quantize="none"):
    config = dataclasses.replace(WIDE, num_kv_heads=kv_heads, tie_embeddings=tied)
    lm = tiny_lm("mc_sim_7b_63:8", config=config, token_map=TOKEN_MAP if draft else None)
    return for_decoding(lm, None, quantize)


def spread(lm, text, quantize="none"):
    """As `load` does: shards first, then codes and key heads for every device."""
    mesh = parse_mesh(text)
    params, heads = (
        jax.device_put(x, param_shardings(mesh, x)) for x in (lm.params, lm.heads_params)
    )
    return for_decoding(dataclasses.replace(lm, params=params, heads_params=heads), mesh, quantize)


@pytest.mark.parametrize("kv_heads", [4, 2])
@pytest.mark.parametrize("mesh", ["tensor=2", "tensor=4", "tensor=8"])
def test_tokens_are_those_of_one_device(kv_heads, mesh):
    lm = model(kv_heads)
    several = spread(lm, mesh)
    state = decoded(several, PROMPTS, [14] * 3)
    assert rows(state) == rows(decoded(lm, PROMPTS, [14] * 3))
    size = int(mesh[-1])
    for keys, values in state.cache.layers:
        for x in (keys, values):
            assert x.sharding.shard_shape(x.shape)[1] == max(kv_heads // size, 1)
    for read in (state.done_B, state.output_BO, state.draft.token_BR):
        assert read.is_fully_replicated


@pytest.mark.parametrize(
    ("kind", "tree"),
    [
        ({"tied": True}, "dynamic:6"),
        ({"draft": True}, "dynamic:6"),
        ({"tied": True, "draft": True}, "mc_sim_7b_63:8"),
        ({"quantize": "int8"}, "mc_sim_7b_63:8"),
    ],
)
def test_other_heads_and_trees(kind, tree):
    lm = model(2, **kind).with_tree(tree)
    quantize = kind.get("quantize", "none")
    several = spread(model(2, **kind | {"quantize": "none"}), "tensor=4", quantize).with_tree(tree)
    assert rows(decoded(several, PROMPTS, [14] * 3)) == rows(decoded(lm, PROMPTS, [14] * 3))


@pytest.mark.parametrize(
    ("acceptance", "mesh"),
    [("lossless", "tensor=8"), ("lossless", "data=2,tensor=2"), ("typical", "fsdp=2,tensor=2")],
)
def test_sampled_tokens(mesh, acceptance):
    lm = model(2)
    filters = {"top_p": 0.95, "min_p": 0.01} if acceptance == "lossless" else {}
    options = GenerationConfig(temperature=0.8, acceptance=acceptance, **filters)
    how = {"rule": make_rule(options, lm.tree), "rule_numbers": rule_numbers([options] * 3)}
    expected = rows(decoded(lm, PROMPTS, [14] * 3, **how))
    assert rows(decoded(spread(lm, mesh), PROMPTS, [14] * 3, **how)) == expected


def test_rows_that_are_refilled():
    lm, prompts, budgets = model(2), PROMPTS * 2, [5, 20, 11, 9, 30, 7]
    assert queued(spread(lm, "tensor=4"), prompts, budgets, 2) == queued(lm, prompts, budgets, 2)


# Of the result; an asynchronous one has a pair of operand and result.
_COLLECTIVE = re.compile(
    r"= (.*?) (?:all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter)(?:-start)?\("
)


def largest_collective(text):
    """Elements of the largest array that any collective of a program gives."""
    shapes = [s for line in _COLLECTIVE.findall(text) for s in re.findall(r"\[([\d,]*)\]", line)]
    return max(math.prod(map(int, filter(None, shape.split(",")))) for shape in shapes)


def check_what_a_step_moves(runtime, batch):
    """The largest thing that may travel: of two rows, all nodes' logits or hidden states."""
    bounds = runtime.put((np.zeros((2,), bool), np.int32(4), np.int32(0)))
    arrays = map(programs.abstract, (batch.state, *bounds))
    program, _ = runtime.program(step.decode, *arrays)
    nodes, config = batch.state.draft.token_BR.shape[1], runtime.decoder.model
    limit = 2 * nodes * max(config.vocab_size, config.hidden_size)
    assert largest_collective(program.as_text()) <= limit


@pytest.mark.parametrize(
    ("kv_heads", "mesh", "tree", "quantize"),
    [
        (4, "tensor=4", "mc_sim_7b_63", "none"),
        (2, "tensor=8", "mc_sim_7b_63", "int8"),
        (2, "tensor=8", "chain:0", "none"),
        (2, "tensor=4", "dynamic:6", "none"),
    ],
)
def test_a_step_moves_activations_and_nothing_larger(kv_heads, mesh, tree, quantize):
    """No weight, no cache: the vocabulary's logits are the largest thing that may travel."""
    lm = spread(model(kv_heads), mesh, quantize).with_tree(tree)
    runtime = make_runtime(lm)
    check_what_a_step_moves(runtime, runtime.start(make_request([8] * 2), PROMPTS[:2]))


@pytest.mark.parametrize(
    ("kind", "quantize"), [("gated_markov", "none"), ("branch", "none"), ("recurrent", "int8")]
)
def test_heads_that_see_their_branch(kind, quantize):
    lm = branch_lm(kind, token_map=TOKEN_MAP if kind == "gated_markov" else None)
    runtime = make_runtime(spread(lm, "tensor=4", quantize).with_tree("chain:3"))
    batch = runtime.start(make_request([14] * 2), PROMPTS[:2])
    check_what_a_step_moves(runtime, batch)
    state = runtime.advance(batch).state
    lm = in_8_bits(lm)[1] if quantize == "int8" else lm
    expected = [slow_steps(lm, prompt, 14, [[0], [0, 0], [0, 0, 0]]) for prompt in PROMPTS[:2]]
    assert rows(state) == [text for text, _ in expected]
    assert state.num_steps_B.tolist() == [steps for _, steps in expected]


def test_the_count_of_collectives_sees_a_gathered_cache():
    mesh = parse_mesh("tensor=4")
    split = jax.device_put(jnp.zeros((2, 4, 8, 256)), NamedSharding(mesh, P(None, "tensor")))
    gather = jax.jit(lambda x: x + 1, out_shardings=replicated(mesh))
    assert largest_collective(gather.lower(split).compile().as_text()) == 2 * 4 * 8 * 256


@pytest.mark.parametrize("quantize", ["none", "int8"])
def test_a_model_is_loaded_into_its_shards(stories260k, quantize):
    options = {"medusa": "none", "dtype": "float32", "quantize": quantize}
    one = medusa_jax.load(str(stories260k), **options)
    lm = medusa_jax.load(str(stories260k), mesh="tensor=8", **options)
    assert (one.config.num_kv_heads, lm.config.num_kv_heads) == (4, 8)
    for layer in range(lm.config.num_layers):
        part = lm.params[f"layers_{layer}"]
        for x in jax.tree.leaves([part["attn"]["q"], part["attn"]["k"], part["mlp"]["up"]]):
            size = math.prod(x.sharding.shard_shape(x.shape))
            # 172 rows of the MLP are no multiple of 8: these stay whole.
            assert size == (x.size if x.shape[0] == 172 else x.size // 8)
    prompt = list(range(1, 20))
    assert rows(decoded(lm, [prompt], [12])) == rows(decoded(one, [prompt], [12]))


@pytest.mark.parametrize("quantize", ["none", "int8"])
def test_a_draft_vocabularys_lm_head_is_split_as_the_lm_head_is(quantize):
    lm = spread(model(2, draft=True), "tensor=4", quantize)
    lm_head = make_runtime(lm).params["drafter"]["lm_head"]["weight"]
    leaves = jax.tree.leaves(lm_head)
    whole = max(leaves, key=lambda x: x.size)
    assert whole.shape[0] % 4 == 0
    assert whole.sharding.shard_shape(whole.shape) == (whole.shape[0] // 4, whole.shape[1])


def test_each_key_head_is_repeated_for_its_own_queries():
    """Against attention written out: query head n reads key head n // (N / K)."""
    lm = model(2)
    several = spread(lm, "tensor=8")
    assert several.config.num_kv_heads == 8
    few, many = (np.asarray(x.params["layers_0"]["attn"]["k"]["weight"]) for x in (lm, several))
    H = lm.config.head_dim
    for n in range(8):
        own = few[n // 4 * H : (n // 4 + 1) * H]
        np.testing.assert_array_equal(many[n * H : (n + 1) * H], own)


@pytest.mark.parametrize(
    ("mesh", "words"),
    [
        ("tensor=16", ("the mesh tensor=16 needs 16 devices, there are 8",)),
        ("tensor=3", ("tensor=3, the model 8 attention heads and 4 key heads", "1, 2, 4, 8")),
        ("tensor", ("give sizes of data, fsdp, tensor",)),
        ("tensor=2,tensor=2", ("give sizes",)),
        ("heads=2", ("'heads=2'", "tensor=4")),
        ("tensor=0", ("positive",)),
        ("tensor=-1,data=-1", ("only one",)),
    ],
)
def test_meshes_that_do_not_fit(stories260k, mesh, words):
    with pytest.raises(UserError) as error:
        medusa_jax.load(str(stories260k), "none", mesh=mesh)
    assert "\n" not in str(error.value)
    for word in words:
        assert word in str(error.value)
