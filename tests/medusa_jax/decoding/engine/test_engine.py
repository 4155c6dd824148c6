"""Rows refilled from a queue: the same answers as one by one, whatever they share a batch with."""

import itertools

import numpy as np
import pytest

import medusa_jax
from medusa_jax.decoding import step
from medusa_jax.decoding.engine import admission, chunks, engine
from medusa_jax.decoding.engine.engine import Engine
from medusa_jax.decoding.runtime import Clock, Runtime, make_request

RULES = {
    "greedy": {},
    "lossless": {"temperature": 0.9, "top_p": 0.9, "seed": 2**40 + 3},
    "typical": {"temperature": 1.1, "acceptance": "typical", "sampled_root": True, "seed": 7},
}


@pytest.fixture(scope="module")
def lm(short_lm):
    return short_lm


def work(seed, count, longest=60, most=70):
    """Random prompts and budgets, some of which end at once."""
    rng = np.random.default_rng(seed)
    prompts = [rng.integers(3, 500, n).tolist() for n in rng.integers(1, longest, count)]
    budgets = rng.integers(1, most, count)
    budgets[rng.integers(0, count)] = 1
    return prompts, [{"max_new_tokens": int(budget)} for budget in budgets]


def alone(lm, prompts, each, **options):
    """Every prompt in a call of its own, decoded plainly where the tree changes no token."""
    out = []
    for number, (prompt, own) in enumerate(zip(prompts, each, strict=True)):
        out += medusa_jax.generate(lm, [prompt], numbers=[number], **options | own)
    return [answer.token_ids for answer in out]


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(("seed", "rows"), [(0, 3), (1, 2)])
def test_a_queue_gives_the_answers_of_one_by_one(lm, rule, seed, rows):
    prompts, each = work(seed, 9)
    reference = lm if rule == "typical" else lm.with_tree("chain:0")
    expected = alone(reference, prompts, each, **RULES[rule])
    answers = medusa_jax.generate(lm, prompts, batch_size=rows, each=each, **RULES[rule])
    assert [answer.token_ids for answer in answers] == expected
    assert [answer.prompt for answer in answers] == prompts


def test_rows_have_options_and_seeds_of_their_own(lm):
    """Where the options that are everyone's would be another rule."""
    prompts, _ = work(8, 3)
    each = [
        {"temperature": 0.6, "seed": 5},
        {"temperature": 1.4, "seed": 2**63 + 1, "top_k": 9},
        {"temperature": 1.0, "min_p": 0.05, "max_new_tokens": 9},
    ]
    each = [{"max_new_tokens": 24} | own for own in each]
    together = medusa_jax.generate(lm, prompts, batch_size=3, each=each)
    expected = alone(lm.with_tree("chain:0"), prompts, each)
    assert [answer.token_ids for answer in together] == expected
    seeds = [{"temperature": 1.0, "seed": seed, "max_new_tokens": 24} for seed in (0, 1)]
    options = {"batch_size": 2, "numbers": [0, 0], "each": seeds}
    first, second = medusa_jax.generate(lm, prompts[:1] * 2, **options)
    assert first.token_ids != second.token_ids


def test_answers_come_as_they_are_done_and_rows_are_refilled(lm, monkeypatch):
    """A long answer beside short ones: all of these come first, in the long one's time."""
    calls = []
    dispatch = Engine._dispatch

    def counted(engine):
        calls.append([row and row.ticket.index for row in engine._rows])
        return dispatch(engine)

    monkeypatch.setattr(Engine, "_dispatch", counted)
    prompts, _ = work(3, 6)
    each = [{"max_new_tokens": n} for n in (200, 5, 5, 5, 5, 5)]
    plain = {"tree": "chain:0", "ignore_eos": True}
    order = medusa_jax.generate_as_done(lm, prompts, batch_size=2, each=each, **plain)
    order = [index for index, _ in order]
    assert order[:4] == [1, 2, 3, 4]
    assert sorted(order) == list(range(6))
    assert calls[0] == [0, 1]
    assert {second for _, second in calls} - {None} == {1, 2, 3, 4, 5}


@pytest.fixture
def ran(monkeypatch):
    """Names of the programs that are run, in turn."""
    names, run = [], Runtime.run

    def noted(runtime, clock, function, *arrays, **static):
        names.append(function.__name__)
        return run(runtime, clock, function, *arrays, **static)

    monkeypatch.setattr(Runtime, "run", noted)
    return names


def test_a_stream_shows_first_tokens_before_any_step(lm, ran):
    prompts, _ = work(7, 2)
    events = medusa_jax.stream(lm, prompts, batch_size=2, max_new_tokens=9, ignore_eos=True)
    first = [next(events), next(events)]
    assert [(event.index, len(event.token_ids)) for event in first] == [(0, 1), (1, 1)]
    assert "insert" in ran
    assert "decode" not in ran
    assert sum(len(event.token_ids) for event in (*first, *events)) == 18


def test_a_long_prompt_is_run_in_chunks_between_the_steps_of_others(lm, monkeypatch, ran):
    monkeypatch.setattr(chunks, "CHUNK", 64)
    monkeypatch.setattr(admission, "CHUNK", 64)
    rng = np.random.default_rng(5)
    prompts = [rng.integers(3, 500, n).tolist() for n in (9, 5, 300, 6)]
    each = [{"max_new_tokens": n} for n in (400, 3, 20, 9)]
    expected = alone(lm.with_tree("chain:0"), prompts, each)
    ran.clear()
    answers = medusa_jax.generate(lm, prompts, batch_size=2, each=each)
    assert [answer.token_ids for answer in answers] == expected
    assert ran.count("extend_rows") == 5
    first, last = (ran.index("extend_rows"), len(ran) - 1 - ran[::-1].index("extend_rows"))
    assert [name for name in ran[first:last] if name in ("extend_rows", "decode")] == [
        "extend_rows",
        "decode",
    ] * 4


def test_the_cache_grows_with_its_rows_and_leaves_no_trace(lm, monkeypatch):
    monkeypatch.setattr(engine, "_ROOM", 8)
    monkeypatch.setattr("medusa_jax.decoding.buckets._MIN_CAPACITY", 16)
    sizes, begin = [], step.grow

    def grow(decoder, params, state, *, capacity):
        sizes.append((state.cache.capacity, capacity))
        return begin(decoder, params, state, capacity=capacity)

    monkeypatch.setattr(step, "grow", grow)
    prompts, each = work(4, 5, longest=20, most=100)
    answers = medusa_jax.generate(lm, prompts, batch_size=2, each=each)
    monkeypatch.undo()
    assert len(sizes) >= 3
    assert all(before < after for before, after in sizes)
    assert [answer.token_ids for answer in answers] == alone(lm, prompts, each)


def test_the_seconds_of_an_answer_are_its_own(lm):
    """Those that came late have not been decoded for as long as the call took."""
    prompts, _ = work(6, 4)
    each = [{"max_new_tokens": n} for n in (150, 10, 10, 10)]
    clock = Clock()
    options = {"each": each, "batch_size": 2, "ignore_eos": True, "tree": "chain:0"}
    list(medusa_jax.generate_as_done(lm, prompts, **options))
    found = dict(medusa_jax.generate_as_done(lm, prompts, clock=clock, **options))
    assert clock.compile == 0
    assert found[0].decode_seconds <= clock.decode + clock.prefill
    short = [found[i] for i in (1, 2, 3)]
    assert sum(answer.decode_seconds for answer in short) <= found[0].decode_seconds * 1.001
    assert all(answer.prefill_seconds > 0 for answer in found.values())
    assert sum(found[i].prefill_seconds for i in (2, 3)) < clock.prefill
    assert clock.tokens == clock.row_steps == sum(own["max_new_tokens"] for own in each)


def test_samples_of_a_prompt_are_run_once_and_differ(lm, monkeypatch):
    options = {"temperature": 1.0, "max_new_tokens": 12, "seed": 5}
    prompts, _ = work(7, 2)
    first = medusa_jax.generate(lm, prompts, **options)
    runs, prefill = [], Runtime.prefill

    def counted(runtime, clock, request, encoded):
        runs.append(len(encoded))
        return prefill(runtime, clock, request, encoded)

    monkeypatch.setattr(Runtime, "prefill", counted)
    many = medusa_jax.generate(lm, prompts, batch_size=2, num_samples=3, **options)
    assert runs == [1, 1]
    assert [(answer.prompt, answer.sample) for answer in many] == [
        (prompt, sample) for prompt in prompts for sample in range(3)
    ]
    assert [many[0].token_ids, many[3].token_ids] == [answer.token_ids for answer in first]
    assert len({tuple(answer.token_ids) for answer in many}) == 6


def test_no_two_of_seeds_numbers_and_samples_share_a_key():
    triples = list(itertools.product([0, 1, 2**63], [0, 1, 5], [0, 1, 5]))
    keys = {
        make_request([1], seed=s, numbers=[n], samples=[k]).key_B2.tobytes() for s, n, k in triples
    }
    assert len(keys) == len(triples)
