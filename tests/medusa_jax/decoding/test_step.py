"""The decode loop against a token-by-token walk without a cache, and what compiles and copies."""

import dataclasses
import json
import logging
import re
from importlib.resources import files

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medusa_jax.decoding import runtime as engine
from medusa_jax.decoding import step as decode
from tests.medusa_jax.tiny import tiny_lm, walk

PRESETS = json.loads((files("medusa_jax") / "data" / "trees.json").read_text())
PROMPTS = [[3, 1, 4, 1, 5], [9], [2, 7, 1, 8, 2, 8, 1, 8, 2, 8, 4, 5]]


def run(lm, prompts, budgets, *, eos_ids=(), acceptance="greedy", sampled_root=False, **options):
    decoder = engine.make_decoder(lm, acceptance, sampled_root)
    request = engine.make_request(budgets, eos_ids, **options)
    batch = engine.start(lm, decoder, request, prompts, max(budgets))
    return engine.advance(lm, batch).state


def rows(state):
    return [
        np.asarray(state.output_BO)[b, :n].tolist()
        for b, n in enumerate(np.asarray(state.num_new_B))
    ]


@pytest.fixture(scope="module")
def lm():
    return tiny_lm()


@pytest.mark.parametrize("name", ["mc_sim_7b_63", "vicuna_33b_stage2"])
def test_tokens_and_steps_equal_a_walk_of_the_tree(lm, name):
    state = run(lm.with_tree(name), PROMPTS, [40, 40, 40])
    walks = [walk(lm, PRESETS[name], prompt, 40) for prompt in PROMPTS]
    assert rows(state) == [tokens for tokens, _ in walks]
    assert np.asarray(state.num_steps_B).tolist() == [steps for _, steps in walks]
    # The random heads must be right sometimes, or the test proves little.
    assert min(40 - steps for _, steps in walks) >= 3


def test_root_alone_takes_one_step_per_token(lm):
    state = run(lm.with_tree("chain:0"), PROMPTS, [17, 17, 17])
    assert rows(state) == [walk(lm, [], prompt, 17)[0] for prompt in PROMPTS]
    assert np.asarray(state.num_steps_B).tolist() == [17, 17, 17]


def test_rows_of_a_ragged_batch_equal_single_rows(lm):
    together = run(lm, PROMPTS, [30, 7, 19])
    for i, (prompt, budget) in enumerate(zip(PROMPTS, [30, 7, 19], strict=True)):
        alone = run(lm, [prompt], [budget])
        assert rows(alone)[0] == rows(together)[i]
        assert int(alone.num_steps_B[0]) == int(together.num_steps_B[i])


@pytest.mark.parametrize("budget", [1, 2, 3, 5, 8])
def test_budget_is_exact(lm, budget):
    state = run(lm, PROMPTS, [budget] * 3)
    assert [len(row) for row in rows(state)] == [budget] * 3
    assert not state.stopped_B.any()
    assert state.done_B.all()


def test_eos_inside_an_accepted_block_trims_what_follows(lm):
    """Every position of the text takes the role of the end, also in mid-block."""
    text = rows(run(lm, [PROMPTS[0]], [30]))[0]
    firsts = {token: text.index(token) for token in text}
    assert len(firsts) > 5
    ends_in_mid_block = 0
    for token, first in firsts.items():
        state = run(lm, [PROMPTS[0]], [30], eos_ids=(23, token) if token != 23 else (23,))
        first = min(first, text.index(23)) if 23 in text else first
        assert rows(state)[0] == text[: first + 1]
        assert bool(state.stopped_B[0])
        ends_in_mid_block += int(state.num_steps_B[0]) < first + 1
    assert ends_in_mid_block >= 2


def test_eos_exactly_at_the_budget_counts_as_a_stop(lm):
    text = rows(run(lm, [PROMPTS[0]], [30]))[0]
    end = next(i for i in range(6, 30) if text[i] not in text[:i])
    assert bool(run(lm, [PROMPTS[0]], [end + 1], eos_ids=(text[end],)).stopped_B[0])
    assert not run(lm, [PROMPTS[0]], [end], eos_ids=(text[end],)).stopped_B[0]


def test_a_full_cache_ends_the_row_and_corrupts_nothing(lm):
    """A cache too small for the budget: a correct but shorter text, for every row on its own."""
    decoder = engine.make_decoder(lm)
    request = engine.make_request([40, 40])
    prompt = np.zeros((2, 16), np.int32)
    prompt[0, :12], prompt[1, :1] = PROMPTS[2], PROMPTS[1]
    length = jnp.asarray([12, 1], jnp.int32)
    params = engine.active_params(lm)
    state = decode.prefill(decoder, params, lm.tree, request, prompt, length, capacity=24)
    state = decode.decode(decoder, params, lm.tree, request, state, jnp.int32(1000))
    for row, source in zip(rows(state), (PROMPTS[2], PROMPTS[1]), strict=True):
        room = 24 - len(source)
        assert room - lm.tree.max_depth - 1 <= len(row) <= room
        assert row == walk(lm, PRESETS["mc_sim_7b_63"], source, 40)[0][: len(row)]
    assert state.done_B.all()
    assert not state.stopped_B.any()


def test_steps_in_chunks_equal_one_run(lm):
    decoder = engine.make_decoder(lm)
    request = engine.make_request([30, 30, 30])
    batch = engine.start(lm, decoder, request, PROMPTS, 30)
    for _ in range(30):
        batch = engine.advance(lm, batch, max_steps=1)
    assert rows(batch.state) == rows(run(lm, PROMPTS, [30, 30, 30]))


def test_typical_acceptance_at_temperature_zero_is_greedy(lm):
    typical = run(lm, PROMPTS, [30] * 3, acceptance="typical", sampled_root=True)
    assert rows(typical) == rows(run(lm, PROMPTS, [30] * 3))


def test_typical_acceptance_takes_fewer_steps_than_greedy(lm):
    greedy = run(lm, PROMPTS, [40] * 3)
    options = {"acceptance": "typical", "temperature": 2.0, "epsilon": 0.02, "delta": 0.14}
    typical = run(lm, PROMPTS, [40] * 3, **options)
    assert int(typical.num_steps_B.sum()) < int(greedy.num_steps_B.sum())


def test_sampled_rows_depend_on_their_own_key_alone(lm):
    options = {"acceptance": "typical", "temperature": 1.5, "sampled_root": True, "seed": 3}
    together = rows(run(lm, PROMPTS, [20] * 3, **options))
    for i, prompt in enumerate(PROMPTS):
        assert rows(run(lm, [prompt], [20], numbers=[i], **options))[0] == together[i]
    assert rows(run(lm, PROMPTS, [20] * 3, **options | {"seed": 4})) != together


def test_one_compilation_serves_all_requests(lm, caplog):
    """Other prompts, budgets, temperatures and seeds neither compile nor touch the host."""
    fresh = tiny_lm(seed=1)
    first = run(fresh, PROMPTS[:1], [12], acceptance="typical", temperature=0.5, sampled_root=True)
    jax.block_until_ready(first)
    with caplog.at_level(logging.WARNING), jax.log_compiles():
        for seed, prompt in enumerate(PROMPTS):
            decoder = engine.make_decoder(fresh, "typical", True)
            request = engine.make_request(
                [10 + 30 * seed], temperature=0.1 + seed, epsilon=0.05, seed=seed
            )
            batch = engine.start(fresh, decoder, request, [prompt], 40)
            with jax.transfer_guard("disallow"):
                batch = engine.advance(fresh, batch)
    compiled = [r.message for r in caplog.records if "Compiling" in r.message]
    assert not [m for m in compiled if "prefill" in m or "decode" in m], compiled
    assert len([key for key in fresh.executables if key[0] == "decode"]) == 1


def bfloat16(lm):
    """The same model, computed in bfloat16."""

    def half(x):
        return x.astype(jnp.bfloat16) if x.dtype == jnp.float32 else x

    params, heads = jax.tree.map(half, (lm.params, lm.heads_params))
    changes = {"params": params, "heads_params": heads, "dtype": "bfloat16", "executables": {}}
    return dataclasses.replace(lm, **changes)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("tree", ["chain:0", "chain:1", "mc_sim_7b_63"])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_the_loop_body_does_not_copy_the_cache(lm, tree, batch_size, dtype):
    lm = (lm if dtype == "float32" else bfloat16(lm)).with_tree(tree)
    decoder = engine.make_decoder(lm)
    request = engine.make_request([8] * batch_size)
    batch = engine.start(lm, decoder, request, PROMPTS[:batch_size], 8)
    params = engine.active_params(lm)
    lowered = decode.decode.lower(decoder, params, lm.tree, request, batch.state, jnp.int32(4))
    hlo = lowered.compile().as_text()
    buffers = {(x.shape, x.dtype) for layer in batch.state.cache.layers for x in layer}
    for shape, kept in buffers:
        text = rf"\[{','.join(map(str, shape))}\]"
        name = {"float32": "f32", "bfloat16": "bf16"}[kept.name]
        assert re.search(rf"{name}{text}\S* parameter\(", hlo)
        copies = re.findall(rf"= \w+{text}\S* (?:copy|transpose|convert|bitcast-convert)\(.*", hlo)
        assert not copies, copies
