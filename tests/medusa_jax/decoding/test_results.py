"""What an answer says of the tree that made it, and of the time that it took."""

import time

import pytest

import medusa_jax
from medusa_jax.decoding.auto import AutoTree
from medusa_jax.decoding.engine import jobs
from medusa_jax.decoding.engine.steering import Plan
from medusa_jax.tree.presets import load_tree

PROMPTS = ["Once upon a time", "The cat saw a dog", "Lily"]


@pytest.fixture(scope="module")
def lm(short_lm):
    return short_lm


def tokens_per_step(lm, prompt, **options):
    """Of every step, told by the events of a stream; the root comes an event early."""
    events = [len(e.token_ids) for e in medusa_jax.stream(lm, prompt, **options)]
    assert events[0] == 1  # after the prompt
    *steps, last = events[1:]
    return [*steps, last + 1]


@pytest.mark.parametrize("spec", ["mc_sim_7b_63", "mc_sim_7b_63:16", "chain:0"])
def test_an_answer_counts_what_its_tree_had_accepted(lm, spec):
    tree = load_tree(spec)
    answers = medusa_jax.generate(lm, PROMPTS, batch_size=2, tree=spec, max_new_tokens=30)
    assert (sum(answer.num_steps for answer in answers) < 90) == (spec != "chain:0")
    for number, answer in enumerate(answers):
        assert answer.tree == tree.paths()
        steps = tokens_per_step(lm, PROMPTS[number], tree=spec, max_new_tokens=30)
        assert answer.accepted[0] == answer.num_steps == len(steps)
        for depth in range(tree.max_depth + 1):
            at_depth = [c for c, d in zip(answer.accepted, tree.depth_R, strict=True) if d == depth]
            assert sum(at_depth) == sum(length > depth for length in steps)
        parents = [answer.accepted[parent] for parent in tree.parent_R]
        assert all(own <= above for own, above in zip(answer.accepted, parents, strict=True))


def test_a_tree_chosen_at_every_step_is_named(lm):
    (answer,) = medusa_jax.generate(lm, PROMPTS[:1], tree="dynamic:8", max_new_tokens=5)
    assert (answer.tree, answer.accepted) == ("dynamic:8", [])


class Switching(AutoTree):
    """Some steps with the root alone, then the largest tree."""

    plain = 0

    def plan(self, capacity, remaining):
        nodes = 1 if self.plain < 5 else max(self._prospect.trees)
        return Plan(self._runtime(nodes), self._prospect.trees[nodes], 5)

    def observe(self, call):
        self.plain += call.steps if self.plain < 5 else 0


def test_of_several_trees_the_last_is_told_and_only_its_steps_count(lm, monkeypatch):
    made = []

    def steering(lm, config, batch, longest, *, logprobs=False, request=None):
        made.append(Switching(lm, config, batch, logprobs, {}))
        return made[0]

    monkeypatch.setattr(jobs, "auto_steering", steering)
    (answer,) = medusa_jax.generate(lm, PROMPTS[:1], tree="auto", max_new_tokens=30)
    assert len(answer.tree) == max(made[0]._prospect.trees) - 1
    assert answer.accepted[0] == answer.num_steps - made[0].plain
    assert sum(answer.accepted) == answer.num_new_tokens - made[0].plain > answer.accepted[0]


def test_waiting_for_whoever_reads_is_not_decoding(lm):
    options = {"tree": "chain:0", "max_new_tokens": 12}
    medusa_jax.generate(lm, PROMPTS[:1], **options)
    pauses = 0.0
    results = []
    for event in medusa_jax.stream(lm, PROMPTS[0], **options):
        begin = time.perf_counter()
        time.sleep(0.2)
        pauses += time.perf_counter() - begin
        results.append(event.result)
    assert results[-1].decode_seconds < pauses / 2
