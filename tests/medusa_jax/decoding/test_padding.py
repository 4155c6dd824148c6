"""Padded trees decode as bare ones do, and trees of one size share a program."""

import jax.numpy as jnp
import numpy as np
import pytest

import medusa_jax
from medusa_jax.decoding import programs, runtime, step
from medusa_jax.decoding.decoder import lone_nodes
from medusa_jax.decoding.drafting import make_drafter
from medusa_jax.decoding.drafting.draft import root_draft
from medusa_jax.decoding.rules.greedy import Greedy
from medusa_jax.decoding.rules.typical import Typical
from medusa_jax.tree.build import build_tree
from medusa_jax.tree.pad import pad_tree
from tests.medusa_jax.decoding.batches import PROMPTS, decoded, rows, typical_numbers
from tests.medusa_jax.tiny import tiny_lm


@pytest.fixture(scope="module")
def lm():
    return tiny_lm()


def pad_with(monkeypatch, more_nodes, more_ranks):
    def padded(tree, num_tokens, platform):
        del num_tokens, platform
        return pad_tree(tree, tree.R + more_nodes, tree.max_depth, tree.top_k + more_ranks)

    monkeypatch.setattr(make_drafter, "padded", padded)


@pytest.mark.parametrize("tree", ["chain:3", "mc_sim_7b_63:13"])
@pytest.mark.parametrize(
    ("rule", "numbers"),
    [(Greedy(), ()), (Typical(), (0.7, 0.3)), (Typical(sampled_root=True), (1.5, 0.05))],
)
def test_tokens_and_steps_are_those_of_the_bare_tree(lm, monkeypatch, tree, rule, numbers):
    def run(*padding):
        pad_with(monkeypatch, *padding)
        given = {"rule_numbers": typical_numbers(3, *numbers)} if numbers else {}
        return decoded(lm.with_tree(tree), PROMPTS, [40] * 3, rule=rule, **given)

    bare, padded = run(0, 0), run(7, 9)
    assert padded.draft.depth_BR.shape[1] == bare.draft.depth_BR.shape[1] + 7
    assert rows(padded) == rows(bare)
    assert padded.num_steps_B.tolist() == bare.num_steps_B.tolist()
    assert max(bare.num_steps_B.tolist()) < 39  # some guesses were right


SAMPLED = {"temperature": 1.5, "seed": 3}


@pytest.mark.parametrize("options", [{}, SAMPLED, SAMPLED | {"acceptance": "typical"}])
def test_a_padded_root_decodes_as_a_bare_one(short_lm, monkeypatch, options):
    """As on TPUs, where only the root of a lone row is padded."""
    shapes = []

    def run(*prompts):
        lm = short_lm.with_tree("chain:0")  # a model remembers how it decoded last
        options_of_all = {"tree": "chain:0", "max_new_tokens": 20, "logprobs": True} | options
        return medusa_jax.generate(lm, prompts, batch_size=len(prompts), **options_of_all)

    def seen(root_B, nodes):
        shapes.append((root_B.shape, nodes))
        return root_draft(root_B, nodes)

    bare = run("Once upon a time")[0], *run("The dog", "Lily")
    monkeypatch.setattr(runtime, "lone_nodes", lambda platform: 8)
    monkeypatch.setattr(step, "root_draft", seen)
    eight = run("Once upon a time")[0], *run("The dog", "Lily")
    assert set(shapes) == {((1,), 8)}
    for one, other in zip(bare, eight, strict=True):
        assert one.token_ids == other.token_ids
        np.testing.assert_allclose(one.logprobs, other.logprobs, rtol=1e-4, atol=1e-5)
        assert one.num_steps == other.num_steps


def test_padding_is_no_node():
    draft = root_draft(jnp.asarray([7], jnp.int32), 3)
    assert draft.is_node().tolist() == [[True, False, False]]
    assert draft.token_BR.tolist() == [[7, 7, 7]]
    assert draft.mask_BRR[0].astype(int).tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 1]]


def test_a_tpu_pads_lone_roots():
    assert [lone_nodes(platform) for platform in ("cpu", "gpu", "tpu")] == [1, 1, 8]


def test_trees_of_one_size_share_a_program(lm):
    """They may differ in their paths and ranks."""
    wide = build_tree([[rank] for rank in range(14)] + [[0, rank] for rank in range(5)])
    other = build_tree([[rank] for rank in range(9)] + [[rank, rank] for rank in range(9)] + [[9]])
    assert (wide.R, other.R, wide.top_k, other.top_k) == (20, 20, 14, 10)
    first = decoded(lm.with_tree(wide), PROMPTS, [40] * 3)
    before = programs._program.cache_info().misses
    second = decoded(lm.with_tree(other), PROMPTS, [40] * 3)
    assert programs._program.cache_info().misses == before
    assert rows(second) == rows(first)
    assert second.num_steps_B.tolist() != first.num_steps_B.tolist()
