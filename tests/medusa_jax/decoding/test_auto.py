"""`tree="auto"`: the text of plain decoding, whatever is switched to and when."""

import dataclasses

import jax
import numpy as np
import pytest

import medusa_jax
from medusa_jax.config import MedusaConfig
from medusa_jax.decoding import auto
from medusa_jax.decoding.auto import AutoTree, auto_choice, auto_steering
from medusa_jax.decoding.engine.steering import Call, OneTree, Plan
from medusa_jax.decoding.options import GenerationConfig, make_rule
from medusa_jax.decoding.runtime import Clock
from medusa_jax.nn.heads import init_heads
from medusa_jax.tree.build import Tree, build_tree
from medusa_jax.tuning.measured import Acceptance, Measured, assumed_acceptance
from medusa_jax.tuning.times import Point, StepTimes

PROMPTS = ["One day, a little girl", "The cat sat on", "Tom and", "He was", "A big dog"]


def with_heads(base: medusa_jax.MedusaLM) -> medusa_jax.MedusaLM:
    V, D = base.config.vocab_size, base.config.hidden_size
    config = MedusaConfig(num_heads=4, hidden_size=D, vocab_size=V)
    params = init_heads(config, base.params["embed"]["weight"], np.float32)
    return dataclasses.replace(base, heads_config=config, heads_params=params)


@pytest.fixture(scope="module")
def lm(stories260k):
    return with_heads(medusa_jax.load(str(stories260k), "none", dtype="float32"))


class Restless:
    """Another size at every call, of all depths, with an observed clock that means nothing."""

    def __init__(self, lm, config, batch, longest, *, logprobs=False, request=None):
        own = AutoTree(lm, config, batch, logprobs, {})
        self.depth, self._runtime_of = own.depth, own._runtime
        self._trees = own._prospect.trees
        self._sizes = [1, 8, 2, 64, 1, 16, 3]
        self.used: list[int] = []

    def plan(self, capacity: int, remaining: float) -> Plan:
        nodes = self._sizes[len(self.used) % len(self._sizes)]
        return Plan(self._runtime_of(nodes), self._trees[nodes], 3)

    def observe(self, call: Call) -> None:
        self.used.append(call.steps)


@pytest.mark.parametrize(
    ("batch_size", "options"), [(1, {"temperature": 0.9, "seed": 4, "top_p": 0.95}), (3, {})]
)
def test_switching_changes_no_token(lm, monkeypatch, options, batch_size):
    """Also while rows are refilled and the cache grows."""
    options = {"batch_size": batch_size, "max_new_tokens": 40, "logprobs": True, **options}
    plain = medusa_jax.generate(lm, PROMPTS, tree="chain:0", **options)
    monkeypatch.setattr("medusa_jax.decoding.engine.jobs.auto_steering", Restless)
    monkeypatch.setattr("medusa_jax.decoding.engine.engine._ROOM", 8)
    restless = medusa_jax.generate(lm, PROMPTS, tree="auto", **options)
    for a, b in zip(plain, restless, strict=True):
        assert a.token_ids == b.token_ids
        np.testing.assert_allclose(a.logprobs, b.logprobs, atol=1e-4)
    assert sum(a.num_steps for a in restless) < sum(a.num_steps for a in plain)


def measured(fast: int, seconds: float = 0.01) -> Measured:
    """Steps take the same up to `fast` nodes, and ten times as long beyond."""
    points = [Point(1, n, 256, seconds) for n in (1, fast)]
    points += [Point(1, 2 * fast, 256, 10 * seconds), Point(64, 1, 256, seconds)]
    points += [Point(64, 2, 256, 10 * seconds)]
    acceptance = Acceptance({0.0: assumed_acceptance(4)})
    return Measured(acceptance, {"float32": StepTimes(tuple(points))})


def test_measurements_decide(lm):
    tuned = dataclasses.replace(lm, measured=measured(8)).with_tree("auto")
    assert tuned.tree.R == 8
    choice = auto_choice(tuned, GenerationConfig(), 1, 200)
    assert (choice.nodes, choice.source) == (8, "measured")
    assert choice.gain == pytest.approx(choice.tokens)
    assert auto_choice(tuned, GenerationConfig(), 64, 200).nodes == 1


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_without_heads_decoding_is_plain(stories260k, dtype):
    lm = medusa_jax.load(str(stories260k), "none", dtype=dtype)
    assert lm.auto
    assert auto_choice(lm, GenerationConfig(), 8, 200).nodes == 1
    (answer,) = medusa_jax.generate(lm, PROMPTS[:1], max_new_tokens=5)
    assert answer.num_steps == 5


def test_a_tree_that_was_asked_for_is_used(lm):
    tuned = dataclasses.replace(lm, measured=measured(8)).with_tree("auto")
    assert not tuned.with_tree("chain:2").auto
    assert tuned.with_tree("chain:2").with_tree("auto").auto
    assert not tuned.is_auto("chain:2")
    (answer,) = medusa_jax.generate(tuned, PROMPTS[:1], max_new_tokens=5, tree="chain:0")
    assert answer.num_steps == 5


def call(tree: Tree, seconds: float, tokens: int = 8, capacity: int = 260) -> Call:
    return Call(seconds, 8, 8, tokens, 0.0, capacity, tree)


def test_a_size_that_disappoints_is_left(lm):
    """Eight nodes were measured to be fast; nothing is accepted, and plain steps cost a tenth."""
    tuned = dataclasses.replace(lm, measured=measured(8))
    steering = auto_steering(tuned, GenerationConfig(), 1, 200)
    used = []
    for _ in range(200):
        plan = steering.plan(260, remaining=1e5)
        used.append(plan.tree.R)
        steering.observe(call(plan.tree, 8 * (0.01 if plan.tree.R == 1 else 0.02)))
    assert used[0] == 8
    assert used[-1] == 1


def test_a_call_with_another_tree_says_nothing_of_this_one(lm):
    """Two streams may take turns, and what the first decides comes between the second's calls."""
    tuned = dataclasses.replace(lm, measured=measured(8))
    steering = auto_steering(tuned, GenerationConfig(), 1, 200)
    plan = steering.plan(260, remaining=1e5)
    for tree in (build_tree([]), plan.tree, plan.tree):
        steering.observe(call(tree, 0.1))
    assert steering._seen.steps == 8  # the first call of the program does not count either


def test_the_first_call_of_a_program_says_nothing_of_its_speed(lm):
    """With every larger cache there is a new program, and its first call took thrice as long."""
    tuned = dataclasses.replace(lm, measured=measured(8))
    steering = auto_steering(tuned, GenerationConfig(), 1, 200)
    for capacity in (256, 384, 512):
        for seconds, steps in ((800.0, 1), (0.08, None)):
            plan = steering.plan(capacity, remaining=1e5)
            assert (plan.tree.R, plan.steps) == (8, steps)
            steering.observe(call(plan.tree, seconds, tokens=24, capacity=capacity))
    seconds = steering._policy.outlooks(steering._prospect.seconds(512))[8].seconds
    assert seconds == pytest.approx(0.01, rel=0.05)


def test_what_a_change_costs_is_what_its_programs_took_to_compile(lm, monkeypatch):
    """Neither what a clock has counted before nor what prompts took."""
    calls = []

    class Recorded(Restless):
        def observe(self, call):
            super().observe(call)
            calls.append(call)

    monkeypatch.setattr("medusa_jax.decoding.engine.jobs.auto_steering", Recorded)
    clock = Clock(compile=1000.0)
    own = dataclasses.replace(lm.config, rms_norm_eps=1.5e-5)  # so that no program is there yet
    other = dataclasses.replace(lm, config=own)
    for _ in range(2):
        list(medusa_jax.generate_as_done(other, PROMPTS[:1], clock=clock, max_new_tokens=21))
    first = [call.compile_seconds for call in calls[: len(calls) // 2]]
    assert 0 < sum(first) < clock.compile - 1000
    assert [call.compile_seconds for call in calls[len(calls) // 2 :]] == [0.0] * len(first)


def test_what_was_learned_is_kept_with_the_model(lm):
    tuned = dataclasses.replace(lm, measured=measured(8))
    steering = auto_steering(tuned, GenerationConfig(), 1, 200)
    assert auto_steering(tuned, GenerationConfig(max_new_tokens=7), 1, 300) is steering
    assert auto_steering(tuned, GenerationConfig(), 2, 200) is not steering
    other = dataclasses.replace(tuned, params=jax.tree.map(lambda x: x + 0, tuned.params))
    assert auto_steering(other, GenerationConfig(), 1, 200) is not steering


def test_an_array_that_was_replaced_is_used(lm):
    tuned = dataclasses.replace(lm, measured=measured(8), params=dict(lm.params))
    steering = auto_steering(tuned, GenerationConfig(), 1, 200)
    before = steering.plan(260, remaining=1e5).runtime.params["backbone"]
    tuned.params["final_norm"] = jax.tree.map(lambda x: 2 * x, lm.params["final_norm"])
    again = auto_steering(tuned, GenerationConfig(), 1, 200)
    after = again.plan(260, remaining=1e5).runtime.params["backbone"]
    assert again is not steering
    assert after["final_norm"]["scale"] is tuned.params["final_norm"]["scale"]
    assert before["final_norm"]["scale"] is lm.params["final_norm"]["scale"]


def test_other_programs_are_learned_about_apart(lm):
    """Filters and biases are parts of a program: one compiled without them is not theirs."""
    tuned = dataclasses.replace(lm, measured=measured(8))
    for options in ({}, {"top_p": 0.9}, {"logit_bias": {3: 1.0}}, {"top_p": 0.8}):
        medusa_jax.generate(
            tuned, PROMPTS[:1], max_new_tokens=4, temperature=1.0, tree="auto", **options
        )
    assert len(auto._LEARNED[tuned].steerings) == 3


def test_who_had_many_prompts_may_expect_as_many_again(lm, monkeypatch):
    """Or a server, whose prompts come one by one, would never compile what pays in the long run."""
    expected, original = [], auto.Policy.decide

    def decide(self, predicted, *, remaining, **others):
        expected.append(remaining)
        return original(self, predicted, remaining=remaining, **others)

    monkeypatch.setattr(auto.Policy, "decide", decide)
    tuned = dataclasses.replace(lm, measured=measured(8))
    for _ in range(3):
        steering = auto_steering(tuned, GenerationConfig(), 2, 200)
        for _ in range(4):
            plan = steering.plan(260, remaining=100.0)
            steering.observe(call(plan.tree, 0.1, tokens=40))
    assert expected[0] == 100.0
    assert expected[-1] == 100.0 + 2 * 4 * 40 / 2


def test_typical_acceptance_keeps_its_tree(lm):
    """Its text depends on it, and must not depend on a clock."""
    tuned = dataclasses.replace(lm, measured=measured(8))
    config = GenerationConfig(temperature=0.7, acceptance="typical")
    steering = auto_steering(tuned, config, 1, 200)
    assert isinstance(steering, OneTree)
    assert steering.runtime.params["drafter"]["tree"].R == 8


def test_typical_acceptance_chooses_the_first_token_as_all_others(lm):
    """The most likely one with a tree; it was drawn, as without one."""
    tuned = dataclasses.replace(lm, measured=measured(8))
    prompts = [[1, number] for number in range(300, 308)]
    options = {"temperature": 1.5, "acceptance": "typical", "max_new_tokens": 1}

    def first(**more):
        return [answer.token_ids for answer in medusa_jax.generate(tuned, prompts, **more)]

    greedy = first(max_new_tokens=1)
    assert first(tree="auto", **options) == greedy
    assert first(tree="chain:0", **options) != greedy


def test_processes_that_share_a_model_keep_the_tree(lm, monkeypatch):
    monkeypatch.setattr("medusa_jax.decoding.runtime.Runtime.is_shared", property(lambda _: True))
    tuned = dataclasses.replace(lm, measured=measured(8))
    assert isinstance(auto_steering(tuned, GenerationConfig(), 1, 200), OneTree)


def test_trees_of_one_depth_share_their_arrays(lm):
    tried = dataclasses.replace(lm, measured=dataclasses.replace(measured(8), times={}))
    steering = AutoTree(tried, GenerationConfig(), 1, False, {})
    first, second = steering._runtime(48), steering._runtime(64)
    assert first.decoder.drafter.max_depth == second.decoder.drafter.max_depth == 4
    own = [jax.tree.leaves(r.params["drafter"]["heads"]) for r in (first, second)]
    assert all(a is b for a, b in zip(*own, strict=True))


def test_temperatures_share_the_heads(lm):
    """Or a process that answers requests would keep a copy of the heads for each."""
    tuned = dataclasses.replace(lm, measured=measured(8))
    arrays = []
    for temperature in (0.0, 0.7, 0.8):
        config = GenerationConfig(temperature=temperature)
        steering = auto_steering(tuned, config, 1, 200, logprobs=temperature > 0.7)
        decoder = steering.plan(260, remaining=1e5).runtime.decoder
        assert (decoder.rule, decoder.logprobs) == (
            make_rule(config, tuned.tree),
            temperature > 0.7,
        )
        steering = auto_steering(tuned, config, 1, 200, request="other programs")
        arrays.append(steering.plan(260, remaining=1e5).runtime.params["drafter"]["heads"])
    assert jax.tree.map(id, arrays[0]) == jax.tree.map(id, arrays[1]) == jax.tree.map(id, arrays[2])


def test_what_was_asked_for_long_ago_is_forgotten(lm, monkeypatch):
    monkeypatch.setattr(auto, "_MOST_KNOWN", 2)
    tuned = dataclasses.replace(lm, measured=measured(8))

    def steering(temperature):
        return auto_steering(tuned, GenerationConfig(temperature=temperature), 1, 200)

    first, second = steering(0.5), steering(0.6)
    assert steering(0.5) is first  # used again, so the second goes first
    steering(0.7)
    assert steering(0.5) is first
    assert steering(0.6) is not second
