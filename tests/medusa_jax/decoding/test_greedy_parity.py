"""Greedy Medusa output on trained models equals transformers' (golden), whatever the heads propose.

See tests/parity/write_golden.py.
"""

import json
from pathlib import Path

import pytest

import medusa_jax
from medusa_jax.io.cache import cache_dir
from medusa_jax.tree.presets import preset_names
from tests.medusa_jax.running import copied_heads, fitted_heads, greedy, load_lm, random_heads

GOLDEN = Path(__file__).resolve().parents[2] / "golden"
STORIES = json.loads((GOLDEN / "stories.json").read_text())
# New tokens per prompt: a pass over a tree takes the large model a tenth of a second.
NUM_NEW = {"stories260K": 64, "stories15M": 24}
# Every tree on the small model; on the large one a tree of each depth and a path.
TREES = {
    "stories260K": [*preset_names(), "chain:4"],
    "stories15M": ["mc_sim_7b_63", "vicuna_33b_stage1", "chain:4"],
}
ROOT_ONLY = "chain:0"


def assert_same(lm, rows, num_new):
    """One prompt alone, then all of them as a ragged batch; returns the batch's tokens per step."""
    prompts = [row["prompt"] for row in rows]
    expected = [row["continuation"][:num_new] for row in rows]
    assert greedy(lm, prompts[:1], num_new)[0] == expected[:1]
    tokens, num_steps = greedy(lm, prompts, num_new)
    assert tokens == expected
    return sum(map(len, tokens)) / num_steps


@pytest.fixture(scope="module")
def story(request):
    """A story model's name, and the model with heads trained on the first half of every text."""
    name = request.param
    lm = load_lm(request.getfixturevalue(name.lower()))
    prompts = [row["prompt"] for row in STORIES[name]]
    halves = [row["continuation"][: NUM_NEW[name] // 2] for row in STORIES[name]]
    return name, fitted_heads(lm, prompts, halves, draft_vocab=True)


@pytest.mark.parametrize(
    ("story", "tree"),
    [(name, tree) for name in STORIES for tree in TREES[name]],
    indirect=["story"],
)
def test_trained_and_random_heads(story, tree):
    name, lm = story
    lm = lm.with_tree(tree)
    assert assert_same(lm, STORIES[name], NUM_NEW[name]) > 1.5
    assert assert_same(random_heads(lm), STORIES[name], NUM_NEW[name] // 2) < 1.5


@pytest.mark.parametrize("tree", ["mc_sim_7b_63", "chain:4", ROOT_ONLY])
def test_untrained_heads(stories260k, tree):
    """A copy's best token is the root's once more; only lower ranks are ever right."""
    lm = copied_heads(load_lm(stories260k)).with_tree(tree)
    tokens_per_step = assert_same(lm, STORIES["stories260K"], NUM_NEW["stories260K"])
    assert tokens_per_step > 1 or lm.tree.top_k == 1


def test_default_model_with_the_shipped_heads():
    if not (cache_dir() / "models" / "SmolLM2-135M-Instruct.Q4_1.gguf").exists():
        pytest.skip("the default model has not been downloaded yet")
    rows = json.loads((GOLDEN / "default_model.json").read_text())
    lm = medusa_jax.load(dtype="float32", tree="mc_sim_7b_63")
    expected = [row["continuation"] for row in rows]
    tokens, num_steps = greedy(lm, [row["prompt"] for row in rows], len(expected[0]))
    assert tokens == expected
    assert num_steps < 0.67 * sum(map(len, expected))
