"""Trees of heads that see their branch against trees that are drafted node by node."""

import dataclasses
import heapq

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medusa_jax.decoding.drafting.make_drafter import make_drafter
from medusa_jax.decoding.options import GenerationConfig, rule_numbers
from medusa_jax.decoding.rules.lossless import Lossless
from medusa_jax.decoding.runtime import make_request, make_runtime
from medusa_jax.io.load import for_decoding
from medusa_jax.nn.quantize import is_quantized
from medusa_jax.tree.build import build_tree
from tests.medusa_jax.branch_heads import KINDS, branch_lm, slow_logits
from tests.medusa_jax.decoding.batches import PROMPTS, decoded, rows
from tests.medusa_jax.tiny import last_hidden, next_token

TREE = [[0], [1], [4], [0, 0], [0, 2], [1, 0], [4, 1]]
TREE += [[0, 0, 0], [0, 2, 1], [4, 1, 0], [0, 2, 1, 3]]
TOKEN_MAP = np.array([3, 20, 7, 11, 2, 15, 9], np.int32)


def scores(lm, hidden_D, branch):
    """Of all tokens that the heads know, behind a branch of token ids."""
    table_VD, lm_head_VD = (np.asarray(lm.params[name]["weight"]) for name in ("embed", "lm_head"))
    if "token_map" in lm.heads_params:
        lm_head_VD = lm_head_VD[np.asarray(lm.heads_params["token_map"])]
    if "projection" in lm.heads_params:
        lm_head_VD = np.asarray(lm.heads_params["projection"]["weight"])[len(branch) - 1]
    embedded, kind = table_VD[list(branch)], lm.heads_config.conditioning
    return slow_logits(kind, lm.heads_params, len(branch) - 1, hidden_D, embedded, lm_head_VD)


def ranked(lm, score_V):
    """Tokens by falling score."""
    order = np.argsort(-score_V, kind="stable")
    return (
        np.asarray(lm.heads_params["token_map"])[order] if "token_map" in lm.heads_params else order
    )


def drafted(lm, hidden_D, root, paths):
    """Token of every path, each found by walking down to it from the root."""
    found = []
    for path in paths:
        branch = [root]
        for rank in path:
            branch.append(int(ranked(lm, scores(lm, hidden_D, branch))[rank]))
        found.append(branch[-1])
    return found


def slow_steps(lm, prompt, budget, paths):
    """Greedy text and the steps that it takes, with a tree that is drafted node by node."""
    out, steps, tree = [], 0, {tuple(path) for path in paths}
    while len(out) < budget:
        hidden_D = last_hidden(lm, prompt + out)
        block, path = [next_token(lm, hidden_D)], ()
        while True:
            wanted = next_token(lm, last_hidden(lm, prompt + out + block))
            if len(path) == 4:
                break
            order = ranked(lm, scores(lm, hidden_D, block)).tolist()
            path += (order.index(wanted) if wanted in order else -1,)
            if path not in tree:
                break
            block.append(wanted)
        out += block
        steps += 1
    return out[:budget], steps


@pytest.mark.parametrize(
    ("kind", "more"),
    [
        ("markov", {"token_map": TOKEN_MAP}),
        ("markov", {"own": True}),
        ("gated_markov", {}),
        ("branch", {"token_map": TOKEN_MAP}),
        ("recurrent", {}),
    ],
)
def test_every_node_holds_what_its_own_branch_proposes(kind, more):
    lm = branch_lm(kind, num_layers=2, **more)
    tree = build_tree(TREE)
    runtime = make_runtime(lm, tree)
    batch = runtime.start(make_request([9] * 3), PROMPTS)
    for _ in range(2):
        done = [row.tolist() for row in np.asarray(batch.state.output_BO)]
        draft = batch.state.draft
        for b, prompt in enumerate(PROMPTS):
            tokens = prompt + done[b][: int(batch.state.num_new_B[b])]
            hidden_D = last_hidden(lm, tokens)
            root = next_token(lm, hidden_D)
            wanted = [root, *drafted(lm, hidden_D, root, tree.paths())]
            assert draft.token_BR[b, : tree.R].tolist() == wanted  # a GPU pads trees
        batch = runtime.advance(batch, 1)


@pytest.mark.parametrize("kind", KINDS)
def test_greedy_text_and_steps_are_those_of_a_slow_reading(kind):
    lm = branch_lm(kind)
    state = decoded(dataclasses.replace(lm, tree=build_tree(TREE)), PROMPTS, [16] * 3)
    expected = [slow_steps(lm, prompt, 16, TREE) for prompt in PROMPTS]
    assert rows(state) == [text for text, _ in expected]
    assert state.num_steps_B.tolist() == [steps for _, steps in expected]


@pytest.mark.parametrize(
    ("kind", "tree"),
    [("gated_markov", "mc_sim_7b_63"), ("branch", "dynamic:12"), ("recurrent", "chain:3")],
)
def test_sampled_text_is_that_of_plain_decoding(kind, tree):
    lm = branch_lm(kind, token_map=None if kind == "gated_markov" else TOKEN_MAP)
    config = GenerationConfig(temperature=0.9, seed=3)

    def sampled(tree):
        options = {"seed": 3, "rule_numbers": rule_numbers([config] * 3)}
        return decoded(lm.with_tree(tree), PROMPTS, [24] * 3, rule=Lossless(), **options)

    plain, fast = sampled("chain:0"), sampled(tree)
    assert rows(fast) == rows(plain)
    assert fast.num_steps_B.sum() < plain.num_steps_B.sum()


def grown(lm, hidden_D, root, num_nodes, depth):
    """The dynamic tree: each time the most valuable node that is left, until there are enough.

    A node gets children if it is among the eight best of its depth, at a temperature of 1.4.
    """
    levels, frontier = [], [(0.0, (root,))]
    for _ in range(depth):
        children = []
        for value, branch in frontier:
            score_V = scores(lm, hidden_D, branch) / 1.4
            log_p_V = score_V - np.log(np.exp(score_V - score_V.max()).sum()) - score_V.max()
            children += [(value + log_p_V[i], (*branch, i)) for i in range(len(log_p_V))]
        best = heapq.nlargest(num_nodes - 1, children)
        levels += best
        frontier = best[:8]
    return [branch for _, branch in heapq.nlargest(num_nodes - 1, levels)]


@pytest.mark.parametrize("kind", ["gated_markov", "branch", "recurrent"])
def test_dynamic_trees_hold_the_best_branches(kind):
    lm = branch_lm(kind)
    runtime = make_runtime(lm.with_tree("dynamic:12"))
    draft = runtime.start(make_request([9] * 3), PROMPTS).state.draft
    assert draft.token_BR.shape == (3, 12)
    for b, prompt in enumerate(PROMPTS):
        hidden_D = last_hidden(lm, prompt)
        root = next_token(lm, hidden_D)
        token_R, parent_R = draft.token_BR[b].tolist(), draft.parent_BR[b].tolist()
        branches = [(root,)]
        for token, parent in zip(token_R[1:], parent_R[1:], strict=True):
            branches.append((*branches[parent], token))
        assert branches[1:] == grown(lm, hidden_D, root, 12, 4)
        assert draft.depth_BR[b].tolist() == [len(branch) - 1 for branch in branches]
        for r, branch in enumerate(branches):
            sees = [branch[: len(other)] == other for other in branches]
            assert draft.mask_BRR[b, r].tolist() == sees


def slow_dynamic_steps(lm, prompt, budget, num_nodes):
    """Greedy text and the steps that it takes, with a tree that is grown anew for each."""
    out, steps = [], 0
    while len(out) < budget:
        hidden_D = last_hidden(lm, prompt + out)
        block = [next_token(lm, hidden_D)]
        tree = set(grown(lm, hidden_D, block[0], num_nodes, 4))
        while True:
            wanted = next_token(lm, last_hidden(lm, prompt + out + block))
            if (*block, wanted) not in tree:
                break
            block.append(wanted)
        out += block
        steps += 1
    return out[:budget], steps


@pytest.mark.parametrize("kind", ["markov", "branch"])
def test_steps_of_dynamic_trees_are_those_of_a_slow_reading(kind):
    lm = branch_lm(kind)
    state = decoded(lm.with_tree("dynamic:12"), PROMPTS, [16] * 3)
    expected = [slow_dynamic_steps(lm, prompt, 16, 12) for prompt in PROMPTS]
    assert rows(state) == [text for text, _ in expected]
    assert state.num_steps_B.tolist() == [steps for _, steps in expected]


def in_8_bits(lm):
    """The quantised model, and the one of the matrices that its codes stand for."""
    quantised = for_decoding(lm, None, "int8")

    def wide(x):
        return x.qvalue.astype(jnp.float32) * x.scale if is_quantized(x) else x

    params, heads = (
        jax.tree.map(wide, x, is_leaf=is_quantized)
        for x in (quantised.params, quantised.heads_params)
    )
    return quantised, dataclasses.replace(lm, params=params, heads_params=heads)


@pytest.mark.parametrize(
    ("kind", "token_map"),
    [
        ("root", TOKEN_MAP),
        ("markov", None),
        ("gated_markov", TOKEN_MAP),
        ("branch", TOKEN_MAP),
        ("recurrent", None),
    ],
)
def test_in_8_bits_chains_are_those_of_the_widened_matrices(kind, token_map):
    quantised, lm = in_8_bits(branch_lm(kind, token_map=token_map))
    state = decoded(quantised.with_tree("chain:2"), PROMPTS, [16] * 3)
    expected = [slow_steps(lm, prompt, 16, [[0], [0, 0]]) for prompt in PROMPTS]
    assert rows(state) == [text for text, _ in expected]
    assert state.num_steps_B.tolist() == [steps for _, steps in expected]


def test_in_8_bits_dynamic_trees_are_those_of_the_widened_matrices():
    quantised, lm = in_8_bits(branch_lm("recurrent"))
    state = decoded(quantised.with_tree("dynamic:12"), PROMPTS, [16] * 3)
    expected = [slow_dynamic_steps(lm, prompt, 16, 12) for prompt in PROMPTS]
    assert rows(state) == [text for text, _ in expected]
    assert state.num_steps_B.tolist() == [steps for _, steps in expected]


def test_similar_trees_share_a_program():
    """What a drafter reads of trees of one size and depth has the same shapes."""
    lm = branch_lm("branch")

    def shapes(paths):
        drafter, own = make_drafter(
            lm.heads_config, lm.heads_params, lm.params, build_tree(paths), "float32", "cpu"
        )
        return drafter, [x.shape for x in own["parents"]]

    one, own = shapes([[0], [1], [2], [0, 0], [1, 0], [2, 0]])
    other, theirs = shapes([[0], [1], [2], [3], [0, 0], [0, 1]])
    assert one == other
    assert own == [(1, 1), (4, 2)]
    assert theirs == [(1, 1), (1, 2)]
    assert shapes([[0], [1], [2], [0, 0], [1, 0], [1, 1]])[1] == [(1, 1), (2, 2)]
    assert jnp.asarray(own[0]).shape == (2,)
