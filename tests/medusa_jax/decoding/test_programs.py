"""What compiles, what is found again, and what the compiled loop copies."""

import dataclasses
import gc
import logging
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medusa_jax.decoding import programs, step
from medusa_jax.decoding.rules.typical import Typical
from medusa_jax.decoding.runtime import make_request, make_runtime
from medusa_jax.io.load import for_decoding
from medusa_jax.plan.parse import parse
from tests.medusa_jax.decoding.batches import PROMPTS, decoded, rows, typical_numbers
from tests.medusa_jax.tiny import tiny_lm


@pytest.fixture(scope="module")
def lm():
    return tiny_lm()


def misses():
    return programs._program.cache_info().misses


def test_one_compilation_serves_all_requests(lm, caplog):
    """Other prompts, budgets, temperatures and seeds neither compile nor touch the host."""
    runtime = make_runtime(lm, rule=Typical(sampled_root=True))

    def start(prompt, budget, temperature, epsilon, seed):
        numbers = typical_numbers(1, temperature, epsilon)
        request = make_request([budget], seed=seed, rule_numbers=numbers)
        return runtime.start(request, [prompt])

    jax.block_until_ready(runtime.advance(start(PROMPTS[0], 12, 0.5, 0.09, 0)).state)
    before = misses()
    with caplog.at_level(logging.WARNING), jax.log_compiles():
        for seed, prompt in enumerate(PROMPTS):
            batch = start(prompt, 10 + 30 * seed, 0.1 + seed, 0.05, seed)
            bounds = runtime.put((np.zeros((1,), bool), np.int32(1000), np.int32(0)))
            with jax.transfer_guard("disallow"):
                runtime.run(batch.clock, step.decode, batch.state, *bounds)
    compiled = [r.message for r in caplog.records if "Compiling" in r.message]
    assert not [m for m in compiled if "prefill" in m or "decode" in m or "begin" in m], compiled
    assert misses() == before


def test_other_weights_of_the_same_shapes_share_programs_and_are_used(lm):
    """Replaced heads used to draft with the old ones."""
    first = decoded(lm, PROMPTS, [20] * 3)
    zeros = jax.tree.map(jnp.zeros_like, lm.heads_params)
    before = misses()
    replaced = dataclasses.replace(lm, heads_params=zeros)
    second = decoded(replaced, PROMPTS, [20] * 3)
    assert misses() == before
    assert rows(second) == rows(first)
    # Heads of zeros all propose what the base head does.
    runtime = make_runtime(replaced)
    drafted = runtime.start(make_request([20]), PROMPTS[:1]).state.draft.token_BR[0]
    assert drafted[1] == drafted[0]
    assert second.num_steps_B.tolist() != first.num_steps_B.tolist()


def test_other_dtypes_structures_and_devices_have_programs_of_their_own(lm):
    runtime = make_runtime(lm.with_tree("chain:1"))
    half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), lm.params)
    moved = jax.device_put(lm.params, jax.devices()[1])
    heads = jax.device_put(lm.heads_params, jax.devices()[1])
    others = [
        dataclasses.replace(lm, params=half),
        dataclasses.replace(lm, params=moved, heads_params=heads),
    ]
    expected = rows(runtime.advance(runtime.start(make_request([9]), PROMPTS[:1])).state)
    for other in others:
        before = misses()
        own = make_runtime(other.with_tree("chain:1"))
        state = own.advance(own.start(make_request([9]), PROMPTS[:1])).state
        assert misses() > before
        assert len(rows(state)[0]) == 9
    assert rows(state) == expected
    assert state.done_B.devices() == {jax.devices()[1]}


def test_prefill_does_not_depend_on_the_tree(lm):
    make_runtime(lm).start(make_request([5] * 3), PROMPTS)
    before = misses()
    other = make_runtime(lm.with_tree("mc_sim_7b_63:9"))
    other.start(make_request([5] * 3), PROMPTS)
    assert misses() - before == 1  # its own `begin`


def test_heads_deeper_than_the_tree_cost_nothing_and_leave_nothing(lm):
    """No part of the heads is copied in the loop, and no copy outlives the call."""
    shallow = lm.with_tree("chain:3")
    runtime = make_runtime(shallow)
    batch = runtime.start(make_request([8]), PROMPTS[:1])
    program = loop_of(runtime, batch)
    for x in jax.tree.leaves(runtime.params["drafter"]["heads"]):
        assert x.shape[0] == 3
        text = rf"\[{','.join(map(str, x.shape))}\]"
        copies = rf"= f32{text}\S* (?:copy|slice|dynamic-slice|fusion)\(.*slice.*"
        assert not re.findall(copies, program.as_text())
    del runtime, batch
    gc.collect()
    before = len(jax.live_arrays())
    for tree in ("chain:1", "chain:2", "chain:3"):
        decoded(lm.with_tree(tree), PROMPTS, [5] * 3)
    gc.collect()
    assert len(jax.live_arrays()) == before


def loop_of(runtime, batch):
    """The compiled loop."""
    rows_B = jnp.zeros(batch.state.done_B.shape, bool)
    arrays = (batch.state, rows_B, jnp.int32(4), jnp.int32(0))
    shapes = (runtime.shapes, *map(programs.abstract, arrays))
    return programs.compiled(step.decode, (runtime.decoder, ()), None, shapes)[0]


def bfloat16(lm):
    """The same model, computed in bfloat16."""

    def half(x):
        return x.astype(jnp.bfloat16) if x.dtype == jnp.float32 else x

    params, heads = jax.tree.map(half, (lm.params, lm.heads_params))
    return dataclasses.replace(lm, params=params, heads_params=heads, dtype="bfloat16")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("tree", ["chain:0", "chain:1", "mc_sim_7b_63"])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_the_loop_body_does_not_copy_the_cache(lm, tree, batch_size, dtype):
    lm = (lm if dtype == "float32" else bfloat16(lm)).with_tree(tree)
    runtime = make_runtime(lm)
    batch = runtime.start(make_request([8] * batch_size), PROMPTS[:batch_size])
    program = loop_of(runtime, batch)
    hlo = program.as_text()
    buffers = {(x.shape, x.dtype) for layer in batch.state.cache.layers for x in layer}
    for shape, kept in buffers:
        text = rf"\[{','.join(map(str, shape))}\]"
        name = {"float32": "f32", "bfloat16": "bf16"}[kept.name]
        assert re.search(rf"{name}{text}\S* parameter\(", hlo)
        copies = re.findall(rf"= \w+{text}\S* (?:copy|transpose|convert|bitcast-convert)\(.*", hlo)
        assert not copies, copies


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("tree", ["chain:0", "mc_sim_7b_63"])
def test_no_parameter_is_copied_before_the_loop(lm, tree, dtype):
    """The bits of a bfloat16 table were, at every call: half of what a step of one row takes."""
    runtime = make_runtime((lm if dtype == "float32" else bfloat16(lm)).with_tree(tree))
    program = parse(loop_of(runtime, runtime.start(make_request([8]), PROMPTS[:1])).as_text())
    entry = program.computations[program.entry].instructions.values()
    handed_on = ("parameter", "get-tuple-element", "tuple", "while")
    made = {x.dims for own in entry if own.opcode not in handed_on for x in own.results}
    matrices = {x.shape for x in jax.tree.leaves(runtime.params) if x.ndim > 1 and x.size > 64}
    assert len(matrices) > 3
    assert not made & matrices


def widened_shapes(text):
    return set(re.findall(r"= (?:f32|bf16)\[([\d,]+)\]\S* convert\(", text))


@pytest.mark.parametrize(("tree", "dtype"), [("chain:0", "bfloat16"), ("mc_sim_7b_63", "float32")])
def test_int8_matrices_are_never_widened_whole(lm, tree, dtype):
    """Neither before the loop, where the compiler would put it, nor inside; the heads too."""
    exact = (lm if dtype == "float32" else bfloat16(lm)).with_tree(tree)
    runtime = make_runtime(for_decoding(exact, None, "int8"))
    text = loop_of(runtime, runtime.start(make_request([8]), PROMPTS[:1])).as_text()
    converted = widened_shapes(text)
    codes = [x.shape for x in jax.tree.leaves(runtime.params) if x.dtype == jnp.int8]
    assert (4, 1, 16, 16) in codes or tree == "chain:0"
    halves = {(*shape[:-2], shape[-2] // 2, shape[-1]) for shape in codes}
    wholes = {shape for shape in codes if shape not in halves}
    assert {(24, 16), (32, 16), (16, 32)} <= wholes
    assert not {",".join(map(str, shape)) for shape in wholes} & converted


def test_a_matrix_that_is_widened_whole_is_seen():
    def naive(x_XD, codes_FD):
        return jnp.einsum("XD,FD->XF", x_XD, codes_FD.astype(x_XD.dtype))

    arrays = jnp.ones((8, 16)), jnp.ones((24, 16), jnp.int8)
    assert "24,16" in widened_shapes(jax.jit(naive).lower(*arrays).compile().as_text())
