"""Ranks of the model's own tokens: they must foretell what decoding does, step by step."""

import numpy as np
import pytest

import medusa_jax
from infer.tuning.acceptance import NO_LABEL, label_ranks, measure
from infer.tuning.rates import acceptance_rates, walk
from medusa_jax.decoding.generate import encode_prompt
from medusa_jax.decoding.options import make_rule, rule_numbers
from medusa_jax.tree.build import build_tree
from medusa_jax.tree.presets import load_tree
from medusa_jax.tree.rates import expected_tokens
from tests.medusa_jax.branch_heads import branch_lm
from tests.medusa_jax.decoding import batches

PROMPTS = ["One day, a little girl", "The cat sat on", "Tom and"]
OPTIONS = [{}, {"temperature": 0.8, "seed": 3}, {"temperature": 1.2, "top_p": 0.9}]
# Of 24 tokens, none at its own index.
TOKEN_MAP = np.array([3, 20, 7, 11, 2, 15, 9, 1, 22, 13, 18, 4, 17, 6, 21, 8], np.int32)


@pytest.mark.parametrize("options", OPTIONS)
def test_the_walk_over_the_ranks_takes_the_steps_of_decoding(lm, options):
    config = medusa_jax.GenerationConfig(max_new_tokens=60, **options)
    tree = load_tree("mc_sim_7b_63:16")
    for number, prompt in enumerate(PROMPTS):
        given = encode_prompt(lm, prompt)
        (plain,) = medusa_jax.generate(
            lm, [given], numbers=[number], tree="chain:0", max_new_tokens=60, **options
        )
        (drafted,) = medusa_jax.generate(
            lm, [given], numbers=[number], tree=tree, max_new_tokens=60, **options
        )
        rank_TM = label_ranks(lm, given.ids, plain.token_ids, config, number)
        assert rank_TM.shape == (len(plain.token_ids), lm.heads_config.num_heads)
        assert drafted.num_steps < plain.num_steps  # some guesses were right
        assert len(walk(rank_TM, tree.paths())) == drafted.num_steps


@pytest.mark.parametrize("kind", ["root", "gated_markov", "recurrent"])
def test_heads_that_see_their_branch_are_ranked_behind_it(kind):
    """In the order of their own vocabulary, which is not the model's."""
    lm = branch_lm(kind, "mc_sim_7b_63", TOKEN_MAP)
    config = medusa_jax.GenerationConfig(max_new_tokens=40, temperature=0.7)
    options = {"rule": make_rule(config, lm.tree), "rule_numbers": rule_numbers([config] * 3)}
    state = batches.decoded(lm, batches.PROMPTS, [40] * 3, **options)
    replies = batches.rows(state)
    for number, (prompt, reply) in enumerate(zip(batches.PROMPTS, replies, strict=True)):
        rank_TM = label_ranks(lm, prompt, reply, config, number)
        steps = len(walk(rank_TM, lm.tree.paths()))
        assert len(reply) > steps == state.num_steps_B[number]


def test_the_end_of_a_reply_has_no_labels(lm):
    config = medusa_jax.GenerationConfig()
    rank_TM = label_ranks(lm, [1, 5], [7, 9, 11], config, 0)
    assert (rank_TM[:, :3] != NO_LABEL).tolist() == [
        [True, True, False],
        [True, False, False],
        [False, False, False],
    ]


def test_the_wanted_prompts_are_measured(lm):
    prompts = [encode_prompt(lm, prompt) for prompt in PROMPTS]
    config = medusa_jax.GenerationConfig(max_new_tokens=9, temperature=1.0)
    every = dict(measure(lm, prompts, [0, 1, 2], config))
    assert [len(every[number]) for number in range(3)] == [9, 9, 9]
    some = dict(measure(lm, prompts, [2], config))  # a prompt keeps its noise
    assert list(some) == [2]
    np.testing.assert_array_equal(some[2], every[2])


def test_a_walk_by_hand():
    """The first root is followed by ranks 1 and 0, the node [1, 0]: three tokens in one step."""
    rank_TM = np.array([[1, 0], [0, 0], [0, 3], [2, 0], [0, NO_LABEL], [NO_LABEL, NO_LABEL]])
    assert walk(rank_TM, [[0], [1], [1, 0]]) == [0, 3, 4]
    assert walk(rank_TM, []) == [0, 1, 2, 3, 4, 5]


def test_rates_foretell_walks_better_than_those_of_all_positions():
    """A text that is hard (a rank in 0 .. 9) except after two easy tokens: a step ends there."""
    rng = np.random.default_rng(0)
    texts = []
    for _ in range(40):
        easy_T = np.repeat(rng.random(60) < 0.4, rng.integers(1, 4))
        hit_T = np.where(easy_T, rng.random(len(easy_T)) < 0.95, rng.random(len(easy_T)) < 0.2)
        next_T = np.where(hit_T, 0, 1 + rng.integers(0, 15, len(easy_T)))
        ahead = [np.pad(next_T[m:], (0, m), constant_values=NO_LABEL) for m in range(1, 4)]
        texts.append(np.stack(ahead, axis=1))
    rates = acceptance_rates(texts)
    for paths in ([[0]], [[0], [0, 0]], [[0], [1], [0, 0], [0, 0, 0]]):
        steps = sum(len(walk(text, paths)) for text in texts)
        tokens = sum(map(len, texts))
        assert expected_tokens(build_tree(paths), rates) == pytest.approx(tokens / steps, rel=0.03)
