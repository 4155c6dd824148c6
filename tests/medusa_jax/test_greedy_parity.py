"""Greedy Medusa output on trained models equals transformers' (golden), whatever the heads propose.

See tests/parity/write_golden.py.
"""

import json
from pathlib import Path

import pytest

from medusa_jax.tree import preset_names
from tests.medusa_jax.running import copied_heads, fitted_heads, greedy, load_lm

STORIES = json.loads((Path(__file__).resolve().parents[1] / "golden" / "stories.json").read_text())
ROOT_ONLY = "chain:0"
NOISE = 0.3  # in the blocks of the heads, where it drowns the hidden state: useless proposals


def assert_same(lm, rows, num_new=64):
    """One prompt alone, then all of them as a ragged batch; returns the batch's tokens per step."""
    prompts = [row["prompt"] for row in rows]
    expected = [row["continuation"][:num_new] for row in rows]
    assert greedy(lm, prompts[:1], num_new)[0] == expected[:1]
    tokens, num_steps = greedy(lm, prompts, num_new)
    assert tokens == expected
    return sum(map(len, tokens)) / num_steps


@pytest.mark.parametrize("tree", [*preset_names(), "chain:4", ROOT_ONLY])
def test_stories260k(stories260k, tree):
    rows = STORIES["stories260K"]
    lm = copied_heads(load_lm(stories260k)).with_tree(tree)
    tokens_per_step = assert_same(lm, rows)
    assert_same(copied_heads(lm, NOISE), rows)
    # A copy's best token is the root's once more; only lower ranks are ever right.
    assert tokens_per_step > 1 or lm.tree.top_k == 1


@pytest.mark.parametrize("tree", ["mc_sim_7b_63", "chain:4"])
def test_long_accepted_paths(stories260k, tree):
    """Heads that are mostly right, so that whole branches are committed at once."""
    rows = STORIES["stories260K"]
    prompts, texts = [row["prompt"] for row in rows], [row["continuation"] for row in rows]
    lm = fitted_heads(load_lm(stories260k), prompts, texts).with_tree(tree)
    tokens, num_steps = greedy(lm, prompts, 64)
    assert tokens == texts
    assert num_steps < 0.5 * sum(map(len, texts))


@pytest.mark.parametrize("tree", ["mc_sim_7b_63", "chain:4"])
def test_stories15m(stories15m, tree):
    rows = STORIES["stories15M"]
    lm = copied_heads(load_lm(stories15m)).with_tree(tree)
    assert_same(lm, rows, num_new=24)
    assert_same(copied_heads(lm, NOISE), rows, num_new=24)
