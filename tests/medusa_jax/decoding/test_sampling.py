"""Lossless sampling end to end: same seed, same tokens, whatever is drafted and beside whom."""

import dataclasses
import math

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import medusa_jax
from medusa_jax.decoding.noise import gumbel
from medusa_jax.decoding.options import GenerationConfig, make_rule, rule_numbers
from medusa_jax.decoding.runtime import make_request, make_runtime
from medusa_jax.io.cache import cache_dir
from medusa_jax.tree.build import build_tree
from tests.medusa_jax.decoding.batches import PROMPTS, rows
from tests.medusa_jax.tiny import last_hidden, tiny_lm

TREES = ["chain:0", "mc_sim_7b_63", "chain:3"]
IRREGULAR = build_tree([[0], [2], [0, 1], [2, 0], [2, 0, 0], [2, 0, 3], [2, 0, 0, 1]])
BUDGET = 24


@pytest.fixture(scope="module")
def lm():
    return tiny_lm()


def sampled(lm, tree, prompts, configs, *, seed=0, numbers=None, bias_BV=None, logprobs=False):
    """The state after the last step; row i has the options configs[i]."""
    lm = lm.with_tree(tree)
    runtime = make_runtime(lm, rule=make_rule(configs[0], lm.tree), logprobs=logprobs)
    request = make_request(
        [BUDGET] * len(prompts),
        seed=seed,
        numbers=numbers,
        rule_numbers=rule_numbers(configs),
        bias_BV=bias_BV,
    )
    return runtime.advance(runtime.start(request, prompts)).state


@st.composite
def options(draw):
    return GenerationConfig(
        temperature=draw(st.floats(0.3, 2.0)),
        acceptance="lossless",
        top_k=draw(st.sampled_from([0, 0, 1, 5, 12])),
        top_p=draw(st.sampled_from([1.0, 1.0, 0.95, 0.6])),
        min_p=draw(st.sampled_from([0.0, 0.0, 0.05])),
    )


@hypothesis.given(
    configs=st.lists(options(), min_size=3, max_size=3),
    seed=st.integers(0, 2**64 - 1),
    tree=st.sampled_from([*TREES, "dynamic:8", IRREGULAR]),
    batch=st.sampled_from([(0, 1, 2), (1,), (2, 0)]),
)
@hypothesis.settings(deadline=None, max_examples=20, derandomize=True)  # no near ties in these
def test_same_seed_same_tokens(lm, configs, seed, tree, batch):
    """With any tree, with heads or without, in any batch; each row has options of its own."""
    expected = rows(sampled(lm, "chain:0", PROMPTS, configs, seed=seed))
    assert [len(row) for row in expected] == [BUDGET] * 3
    prompts, own = ([all_rows[i] for i in batch] for all_rows in (PROMPTS, configs))
    actual = rows(sampled(lm, tree, prompts, own, seed=seed, numbers=batch))
    assert actual == [expected[i] for i in batch]


def test_rows_draft_with_options_of_their_own(lm):
    """A row takes the steps that it takes alone: its neighbours' guesses are not its own."""
    each = [{"temperature": 0.3, "top_k": 5}, {"top_p": 0.6}, {"temperature": 2.0, "min_p": 0.05}]
    configs = [GenerationConfig(**{"temperature": 1.0} | own) for own in each]
    together = sampled(lm, TREES[1], PROMPTS, configs)
    for number, own in enumerate(zip(PROMPTS, configs, strict=True)):
        alone = sampled(lm, TREES[1], *([x] for x in own), numbers=[number])
        assert together.num_steps_B[number] == alone.num_steps_B[0]


def slow_sample(lm, prompt, temperature, number, seed=0):
    """Gumbel-max read literally, token by token; no tree, no cache."""
    key_12 = make_request([1], seed=seed, numbers=[number]).key_B2
    ids, margin = list(prompt), np.inf
    for _ in range(BUDGET):
        logits_V = np.asarray(lm.params["lm_head"]["weight"]) @ last_hidden(lm, ids)
        position = jnp.full((1, 1), len(ids), jnp.int32)
        noise_V = np.asarray(gumbel(key_12, position, jnp.arange(len(logits_V))))[0, 0]
        score_V = logits_V / temperature + noise_V
        second, first = np.sort(score_V)[-2:]
        margin = min(margin, first - second)
        ids.append(int(score_V.argmax()))
    assert margin > 1e-4 / temperature  # nothing here is excused by a near tie
    return ids[len(prompt) :]


def test_tokens_are_those_of_the_gumbel_max_trick(lm):
    config = GenerationConfig(temperature=0.9)
    state = sampled(lm, "mc_sim_7b_63", PROMPTS, [config] * 3)
    assert rows(state) == [slow_sample(lm, p, 0.9, i) for i, p in enumerate(PROMPTS)]


def test_many_positions_give_many_tokens(lm):
    """Noise of its own at every position, and for every sample of a prompt."""
    flat = dataclasses.replace(
        lm,
        params=lm.params | {"lm_head": {"weight": jnp.zeros_like(lm.params["lm_head"]["weight"])}},
    )
    config = GenerationConfig(temperature=1.0)
    runtime = make_runtime(flat.with_tree("chain:3"), rule=make_rule(config, flat.tree))
    request = make_request(
        [BUDGET] * 3, numbers=[5, 5, 5], samples=[0, 1, 1], rule_numbers=rule_numbers([config] * 3)
    )
    first, second, third = rows(runtime.advance(runtime.start(request, PROMPTS[:1] * 3)).state)
    assert len(set(first)) > 10
    assert second == third
    assert sum(a == b for a, b in zip(first, second, strict=True)) < 6


def test_bias_is_added_before_everything_else(lm):
    """A bias of -inf bans a token, one of 1000 forces it, in greedy decoding and in sampling."""
    bias_BV = np.zeros((3, lm.config.vocab_size), np.float32)
    bias_BV[0, [3, 4, 5, 6, 7]] = -np.inf
    bias_BV[1, 11] = 1000
    for config in (GenerationConfig(), GenerationConfig(temperature=1.5, top_k=3)):
        states = [sampled(lm, t, PROMPTS, [config] * 3, bias_BV=bias_BV) for t in TREES[:2]]
        banned, forced, free = rows(states[1])
        assert rows(states[0]) == [banned, forced, free]
        assert not {3, 4, 5, 6, 7} & set(banned)
        assert forced == [11] * BUDGET
        assert states[1].num_steps_B[1] == math.ceil(BUDGET / 5)  # the heads' tokens have it too
        assert free == rows(sampled(lm, TREES[1], PROMPTS, [config] * 3))[2]


def test_bias_of_a_draft_vocabulary_is_that_of_its_tokens():
    lm = tiny_lm("chain:3", token_map=np.array([3, 20, 7, 11, 2], np.int32))
    bias_BV = np.zeros((3, lm.config.vocab_size), np.float32)
    bias_BV[[0, 1], [11, 20]] = 1000
    state = sampled(lm, "chain:3", PROMPTS, [GenerationConfig()] * 3, bias_BV=bias_BV)
    assert rows(state)[:2] == [[11] * BUDGET, [20] * BUDGET]
    assert state.num_steps_B[:2].tolist() == [math.ceil(BUDGET / 4)] * 2


@pytest.mark.parametrize("temperature", [0.0, 1.2])
@pytest.mark.parametrize("tree", TREES)
def test_logprobs_are_those_of_the_model_as_it_is(lm, tree, temperature):
    config = GenerationConfig(temperature=temperature, top_k=6 if temperature else 0)
    bias_BV = np.zeros((3, lm.config.vocab_size), np.float32)
    bias_BV[:, 2] = 1.0
    state = sampled(lm, tree, PROMPTS, [config] * 3, bias_BV=bias_BV, logprobs=True)
    for row, (prompt, tokens) in enumerate(zip(PROMPTS, rows(state), strict=True)):
        expected = []
        for i, token in enumerate(tokens):
            logits_V = np.asarray(lm.params["lm_head"]["weight"]) @ last_hidden(
                lm, prompt + tokens[:i]
            )
            expected.append(float(jax.nn.log_softmax(logits_V)[token]))
        actual = np.asarray(state.logprobs.output_BO)[row, : len(tokens)]
        np.testing.assert_allclose(actual, expected, atol=1e-4)


def test_the_default_model_with_its_heads():
    """Two rows of other temperatures and filters, and the seed's tokens with every tree."""
    if not (cache_dir() / "models" / "SmolLM2-135M-Instruct.Q4_1.gguf").exists():
        pytest.skip("the default model has not been downloaded yet")
    lm = medusa_jax.load(dtype="float32")
    options = {"max_new_tokens": 24, "seed": 2**63 + 5, "batch_size": 2}
    each = [{"temperature": 1.0}, {"temperature": 0.7, "top_p": 0.9}]
    prompts = ["Name three trees.", "Why is the sea salty?"]
    plain = medusa_jax.generate(lm, prompts, each=each, tree="chain:0", **options)
    for tree in ("smollm2_135m_63:16", "dynamic:8"):
        drafted = medusa_jax.generate(lm, prompts, each=each, tree=tree, **options)
        assert [own.token_ids for own in drafted] == [own.token_ids for own in plain]
        assert sum(own.num_steps for own in drafted) < sum(own.num_steps for own in plain)
