"""The decode loop against a token-by-token walk without a cache."""

import dataclasses
import json
from importlib.resources import files

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medusa_jax.decoding import prefill, step
from medusa_jax.decoding.rules.typical import Typical
from medusa_jax.decoding.runtime import make_request, make_runtime, padded
from tests.medusa_jax.decoding.batches import PROMPTS, decoded, rows, typical_numbers
from tests.medusa_jax.tiny import tiny_lm, walk

PRESETS = json.loads((files("medusa_jax") / "data" / "trees.json").read_text())


@pytest.fixture(scope="module")
def lm():
    return tiny_lm()


@pytest.mark.parametrize("name", ["mc_sim_7b_63", "vicuna_33b_stage2"])
def test_tokens_and_steps_equal_a_walk_of_the_tree(lm, name):
    state = decoded(lm.with_tree(name), PROMPTS, [40, 40, 40])
    walks = [walk(lm, PRESETS[name], prompt, 40) for prompt in PROMPTS]
    assert rows(state) == [tokens for tokens, _ in walks]
    assert np.asarray(state.num_steps_B).tolist() == [steps for _, steps in walks]
    # The random heads must be right sometimes, or the test proves little.
    assert min(40 - steps for _, steps in walks) >= 3


def test_root_alone_takes_one_step_per_token(lm):
    state = decoded(lm.with_tree("chain:0"), PROMPTS, [17, 17, 17])
    assert rows(state) == [walk(lm, [], prompt, 17)[0] for prompt in PROMPTS]
    assert np.asarray(state.num_steps_B).tolist() == [17, 17, 17]


def test_rows_of_a_ragged_batch_equal_single_rows(lm):
    together = decoded(lm, PROMPTS, [30, 7, 19])
    for i, (prompt, budget) in enumerate(zip(PROMPTS, [30, 7, 19], strict=True)):
        alone = decoded(lm, [prompt], [budget])
        assert rows(alone)[0] == rows(together)[i]
        assert int(alone.num_steps_B[0]) == int(together.num_steps_B[i])


@pytest.mark.parametrize("budget", [1, 2, 3, 5, 8])
def test_budget_is_exact(lm, budget):
    state = decoded(lm, PROMPTS, [budget] * 3)
    assert [len(row) for row in rows(state)] == [budget] * 3
    assert not state.stopped_B.any()
    assert state.done_B.all()


def test_eos_inside_an_accepted_block_trims_what_follows(lm):
    """Every position of the text takes the role of the end, also in mid-block."""
    text = rows(decoded(lm, [PROMPTS[0]], [30]))[0]
    firsts = {token: text.index(token) for token in text}
    assert len(firsts) > 5
    ends_in_mid_block = 0
    for token, first in firsts.items():
        state = decoded(lm, [PROMPTS[0]], [30], eos_ids=(23, token) if token != 23 else (23,))
        first = min(first, text.index(23)) if 23 in text else first
        assert rows(state)[0] == text[: first + 1]
        assert bool(state.stopped_B[0])
        ends_in_mid_block += int(state.num_steps_B[0]) < first + 1
    assert ends_in_mid_block >= 2


def test_eos_exactly_at_the_budget_counts_as_a_stop(lm):
    text = rows(decoded(lm, [PROMPTS[0]], [30]))[0]
    end = next(i for i in range(6, 30) if text[i] not in text[:i])
    assert bool(decoded(lm, [PROMPTS[0]], [end + 1], eos_ids=(text[end],)).stopped_B[0])
    assert not decoded(lm, [PROMPTS[0]], [end], eos_ids=(text[end],)).stopped_B[0]


@pytest.mark.parametrize("tree", ["mc_sim_7b_63", "chain:0"])
def test_a_full_cache_returns_to_the_host_and_grows_without_a_trace(lm, tree):
    """A cache too small for the budget: no row is done, and with more room all go on."""
    runtime = make_runtime(lm.with_tree(tree))
    prompts = [PROMPTS[2], PROMPTS[1]]
    request = jax.device_put(make_request([40, 40]))
    length = jnp.asarray([12, 1], jnp.int32)
    arguments = (runtime.decoder, runtime.params)
    filled = prefill.prefill_rows(*arguments, request, padded(prompts, 16), length)
    state = step.begin(*arguments, filled, capacity=24)
    decode = jax.jit(step.decode, static_argnums=0)
    bounds = (jnp.zeros((2,), bool), jnp.int32(1000), jnp.int32(1))
    state, progress = decode(*arguments, state, *bounds)
    depth = runtime.decoder.drafter.max_depth
    expected = [walk(lm, PRESETS["mc_sim_7b_63"], source, 40)[0] for source in prompts]
    # The longer row has no room for another step, and the other one waits for it.
    assert 24 - depth <= int(state.cache.length_B[0]) <= 24
    assert not state.done_B.any()
    assert [row == whole[: len(row)] for row, whole in zip(rows(state), expected, strict=True)]
    again, idle = decode(*arguments, state, *bounds)
    assert (int(idle.steps), int(progress.steps) > 0) == (0, True)
    grown = step.grow(*arguments, again, capacity=64)
    state, progress = decode(*arguments, grown, *bounds)
    assert rows(state) == rows(progress) == expected
    assert state.done_B.all()
    assert not state.stopped_B.any()


def test_the_loop_returns_when_more_rows_are_done_than_it_is_told(lm):
    runtime = make_runtime(lm)
    batch = runtime.start(make_request([30, 2, 9]), PROMPTS)
    halted = np.zeros((3,), bool)
    for num_done in range(3):
        bounds = runtime.put((halted, np.int32(1000), np.int32(num_done)))
        state, progress = runtime.run(batch.clock, step.decode, batch.state, *bounds)
        assert int(progress.done_B.sum()) > num_done
        assert progress.done_B.tolist() == [num_done > 1, True, num_done > 0]
        batch = dataclasses.replace(batch, state=state)
    assert rows(state) == rows(decoded(lm, PROMPTS, [30, 2, 9]))


def test_halted_rows_stop_where_they_are_and_disturb_nobody(lm):
    runtime = make_runtime(lm)
    batch = runtime.advance(runtime.start(make_request([30] * 3), PROMPTS), 3)
    before = rows(batch.state)
    bounds = runtime.put((np.asarray([False, True, False]), np.int32(1000), np.int32(2)))
    state, _ = runtime.run(batch.clock, step.decode, batch.state, *bounds)
    expected = rows(decoded(lm, PROMPTS, [30] * 3))
    assert rows(state) == [expected[0], before[1], expected[2]]


def test_the_host_reads_at_which_step_every_token_was_made(lm):
    runtime = make_runtime(lm)
    batch = runtime.start(make_request([20] * 3), PROMPTS)
    made = [[], [], []]
    while not batch.state.done_B.all():
        before = batch.state.num_new_B.tolist()
        steps = batch.state.num_steps_B.tolist()
        batch = runtime.advance(batch, 1)
        for b, num in enumerate(batch.state.num_new_B.tolist()):
            made[b] += [steps[b]] * (num - before[b])
    assert [np.asarray(batch.state.made_at_BO)[b, :20].tolist() for b in range(3)] == made


def test_the_host_reads_which_node_held_every_token(lm):
    """A path of the draft from its root, whose tokens are those that the step emitted."""
    runtime = make_runtime(lm)
    batch = runtime.start(make_request([20] * 3), PROMPTS)
    deepest = 0
    while not batch.state.done_B.all():
        draft, before = jax.device_get((batch.state.draft, batch.state.num_new_B))
        batch = runtime.advance(batch, 1)
        state = jax.device_get(batch.state)
        for b, num in enumerate(state.num_new_B.tolist()):
            tokens, nodes = (x[b, before[b] : num] for x in (state.output_BO, state.node_BO))
            assert draft.token_BR[b, nodes].tolist() == tokens.tolist()
            assert draft.parent_BR[0, nodes].tolist() == [0, *nodes[:-1]][: len(nodes)]
            assert draft.depth_BR[0, nodes].tolist() == [*range(len(nodes))]
            deepest = max(deepest, len(nodes))
    assert deepest > 2


def test_steps_in_chunks_equal_one_decoded(lm):
    runtime = make_runtime(lm)
    batch = runtime.start(make_request([30, 30, 30]), PROMPTS)
    for _ in range(30):
        batch = runtime.advance(batch, max_steps=1)
    assert rows(batch.state) == rows(decoded(lm, PROMPTS, [30, 30, 30]))


def test_inserted_rows_decode_as_they_would_alone_and_disturb_nobody(lm):
    """Row 1 of a batch in flight gets another prompt, as continuous batching will do."""
    runtime = make_runtime(lm)
    batch = runtime.start(make_request([30, 4, 30]), PROMPTS)
    batch = runtime.advance(batch, max_steps=4)
    newcomer, budget = [7, 7, 3], 20
    rows_in = runtime.prefill(batch.clock, make_request([budget]), [newcomer])
    slot = runtime.put(np.asarray([1], np.int32))
    state = runtime.run(batch.clock, step.insert, batch.state, rows_in, slot)
    state = runtime.advance(dataclasses.replace(batch, state=state)).state
    expected = rows(decoded(lm, PROMPTS, [30, 4, 30]))
    expected[1] = rows(decoded(lm, [newcomer], [budget]))[0]
    assert rows(state) == expected
    alone = decoded(lm, [newcomer], [budget])
    assert int(state.num_steps_B[1]) == int(alone.num_steps_B[0])


def test_typical_acceptance_at_temperature_zero_is_greedy(lm):
    rule, numbers = Typical(sampled_root=True), typical_numbers(3, 0.0)
    typical = decoded(lm, PROMPTS, [30] * 3, rule=rule, rule_numbers=numbers)
    assert rows(typical) == rows(decoded(lm, PROMPTS, [30] * 3))


def test_typical_acceptance_takes_fewer_steps_than_greedy(lm):
    greedy = decoded(lm, PROMPTS, [40] * 3)
    numbers = typical_numbers(3, 2.0, 0.02, 0.14)
    typical = decoded(lm, PROMPTS, [40] * 3, rule=Typical(), rule_numbers=numbers)
    assert int(typical.num_steps_B.sum()) < int(greedy.num_steps_B.sum())


def test_sampled_rows_depend_on_their_own_key_alone(lm):
    options = {"rule": Typical(sampled_root=True), "seed": 3}

    def sampled(prompts, **more):
        numbers = typical_numbers(len(prompts), 1.5)
        budgets = [20] * len(prompts)
        return rows(decoded(lm, prompts, budgets, **options | more, rule_numbers=numbers))

    together = sampled(PROMPTS)
    for i, prompt in enumerate(PROMPTS):
        assert sampled([prompt], numbers=[i])[0] == together[i]
    assert sampled(PROMPTS, seed=4) != together


@pytest.mark.parametrize("tree", ["chain:0", "chain:1"])
def test_every_position_is_sampled_by_a_key_of_its_own(lm, tree):
    """All tokens are equally likely: a key that forgets its position repeats itself."""
    head = jnp.zeros_like(lm.params["lm_head"]["weight"])
    flat = dataclasses.replace(lm, params=dict(lm.params) | {"lm_head": {"weight": head}})
    numbers = typical_numbers(3, 1.0, 1e-9)
    rule = Typical(sampled_root=True)
    state = decoded(flat.with_tree(tree), PROMPTS, [20] * 3, rule=rule, rule_numbers=numbers)
    # With chain:1 every second token is the heads' (all the same one), the others are drawn.
    drawn = [text[:: 1 + flat.with_tree(tree).tree.max_depth] for text in rows(state)]
    assert all(len(set(text)) > len(text) // 2 for text in drawn)
    # The second one, drawn for the position of the first, would always equal it.
    assert any(text[0] != text[1] for text in drawn)
    assert len({tuple(text) for text in drawn}) == 3
