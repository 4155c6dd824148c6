"""Dynamic trees against trees grown node by node, and what they decode against plain decoding."""

import dataclasses
import heapq
import re

import hypothesis
import hypothesis.extra.numpy as arrays
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medusa_jax.config import MedusaConfig
from medusa_jax.decoding import programs, step
from medusa_jax.decoding.drafting.dynamic import ancestors, best_nodes
from medusa_jax.decoding.rules.typical import Typical
from medusa_jax.decoding.runtime import make_request, make_runtime
from medusa_jax.errors import UserError
from medusa_jax.nn.heads import init_heads
from medusa_jax.tree.dynamic import DynamicTree
from tests.medusa_jax.decoding.batches import PROMPTS, decoded, rows, typical_numbers
from tests.medusa_jax.tiny import last_hidden, next_token, tiny_lm

BEST_NODES = jax.jit(best_nodes, static_argnums=1)
ANCESTORS = jax.jit(ancestors, static_argnums=1)


@pytest.fixture(scope="module")
def lm():
    return tiny_lm()


def grown(log_p_Mk, num_nodes):
    """Paths by falling value, from a heap that gets a node's children when it is taken.

    At ties the lower depth, then the better parent, then the lower rank comes first.
    """
    heap, taken = [(np.float32(0), ())], []
    while heap and len(taken) < num_nodes:
        *order, path = heapq.heappop(heap)
        taken.append(path)
        if len(path) < len(log_p_Mk):
            for rank, log_p in enumerate(log_p_Mk[len(path)]):
                value = np.float32(-order[0]) + log_p
                key = (-value, len(path) + 1, tuple(order), rank)
                heapq.heappush(heap, (*key, (*path, rank)))
    return taken


def drawn_paths(parent_R, rank_R):
    """Path of every node; fails when a parent comes late."""
    paths = [()]
    for parent, rank in zip(parent_R[1:].tolist(), rank_R[1:].tolist(), strict=True):
        paths.append((*paths[parent], rank))
    return paths


# Heads, tokens of each, nodes: trees that end by their size, by their depth, or by their tokens.
SHAPES = [(1, 3, 10), (2, 6, 5), (3, 1, 3), (3, 2, 40), (4, 3, 17)]
# Halves of whole numbers make ties.
TIES = st.sampled_from([0, 0.5, 1, 1.5])
FLOATS = st.floats(0, 9, width=32, allow_subnormal=False)


@pytest.mark.parametrize(("num_heads", "num_ranks", "num_nodes"), SHAPES)
@hypothesis.given(data=st.data())
@hypothesis.settings(deadline=None, max_examples=30)
def test_the_nodes_are_those_of_the_heap_in_its_order(num_heads, num_ranks, num_nodes, data):
    shape = (2, num_heads, num_ranks)
    values = arrays.arrays(np.float32, shape, elements=data.draw(st.sampled_from([TIES, FLOATS])))
    log_p_BMk = -np.sort(data.draw(values), axis=-1)
    parent_BR, depth_BR, rank_BR = map(np.asarray, BEST_NODES(log_p_BMk, num_nodes))
    mask_BRR = np.asarray(ANCESTORS(parent_BR, num_heads))
    for b, log_p_Mk in enumerate(log_p_BMk):
        paths = drawn_paths(parent_BR[b], rank_BR[b])
        assert paths == grown(log_p_Mk, num_nodes)
        assert depth_BR[b].tolist() == [len(path) for path in paths]
        for r, path in enumerate(paths):
            for c, other in enumerate(paths):
                assert mask_BRR[b, r, c] == (path[: len(other)] == other)


def test_large_trees_too():
    log_p_BMk = -np.sort(np.random.default_rng(0).exponential(2, (3, 4, 32)), axis=-1)
    log_p_BMk = log_p_BMk.astype(np.float32)
    parent_BR, _, rank_BR = map(np.asarray, BEST_NODES(log_p_BMk, 128))
    for b, log_p_Mk in enumerate(log_p_BMk):
        assert drawn_paths(parent_BR[b], rank_BR[b]) == grown(log_p_Mk, 128)


def slow_steps(lm, prompt, budget, num_heads, num_nodes):
    """Greedy text and Medusa steps, with a tree grown in numpy at every step."""
    out, steps = [], 0
    lm_head_VD = np.asarray(lm.params["lm_head"]["weight"])
    blocks = lm.heads_params["blocks"]
    blocks = {k: np.asarray(v)[:num_heads, 0] for k, v in blocks.items()}
    while len(out) < budget:
        hidden_D = last_hidden(lm, prompt + out)
        y_MD = blocks["weight"] @ hidden_D + blocks["bias"]
        logits_MV = (hidden_D + y_MD / (1 + np.exp(-y_MD))) @ lm_head_VD.T / 1.4
        p_MV = np.exp(logits_MV - logits_MV.max(-1, keepdims=True))
        log_p_MV = np.log(p_MV / p_MV.sum(-1, keepdims=True))
        token_MV = np.argsort(-log_p_MV, axis=-1, kind="stable")
        paths = set(grown(np.take_along_axis(log_p_MV, token_MV, axis=-1), num_nodes))
        block, path = [next_token(lm, hidden_D)], ()
        while len(path) < len(token_MV):
            wanted = next_token(lm, last_hidden(lm, prompt + out + block))
            path += (int(np.flatnonzero(token_MV[len(path)] == wanted)[0]),)
            if path not in paths:
                break
            block.append(wanted)
        out += block
        steps += 1
    return out[:budget], steps


@pytest.mark.parametrize(("num_nodes", "num_heads"), [(2, 1), (6, 3), (30, 4)])
def test_greedy_text_and_steps_are_those_of_a_slow_reading(lm, num_nodes, num_heads):
    state = decoded(lm.with_tree(f"dynamic:{num_nodes}"), PROMPTS, [16] * 3)
    expected = [slow_steps(lm, prompt, 16, num_heads, num_nodes) for prompt in PROMPTS]
    assert rows(state) == [text for text, _ in expected]
    assert state.num_steps_B.tolist() == [steps for _, steps in expected]
    plain = decoded(lm.with_tree("chain:0"), PROMPTS, [16] * 3)
    assert rows(state) == rows(plain)


def test_every_row_has_the_tree_that_it_has_alone(lm):
    tree = lm.with_tree("dynamic:9")
    runtime = make_runtime(tree, rule=Typical())

    def start(prompts):
        numbers = typical_numbers(len(prompts), 0.8)
        request = make_request([20] * len(prompts), rule_numbers=numbers)
        return runtime.advance(runtime.start(request, prompts)).state

    together = start(PROMPTS)
    alone = [start([prompt]) for prompt in PROMPTS]
    assert rows(together) == [rows(state)[0] for state in alone]
    assert together.num_steps_B.tolist() == [int(state.num_steps_B[0]) for state in alone]
    assert not (together.draft.parent_BR == together.draft.parent_BR[:1]).all()


def test_a_draft_vocabulary_proposes_its_own_tokens(lm):
    token_map = np.array([3, 20, 7, 11], np.int32)
    config = MedusaConfig(num_heads=2, hidden_size=16, vocab_size=4, draft_vocab=True)
    heads = init_heads(config, lm.params["lm_head"]["weight"], jnp.float32, token_map)
    other = dataclasses.replace(lm, heads_config=config, heads_params=heads)
    runtime = make_runtime(other.with_tree("dynamic:40"))
    batch = runtime.start(make_request([20]), PROMPTS[:1])
    draft = batch.state.draft
    # Four tokens of two heads: not as many paths as were asked for.
    assert draft.token_BR.shape == (1, 1 + 4 + 16)
    children = draft.token_BR[0, 1:][draft.depth_BR[0, 1:] == 1]
    assert sorted(children.tolist()) == sorted(token_map.tolist())
    # Heads as they are initialised: the base model's own logits, of the tokens that they know.
    logits_V = np.asarray(lm.params["lm_head"]["weight"]) @ last_hidden(lm, PROMPTS[0])
    assert int(draft.token_BR[0, 1]) == token_map[np.argmax(logits_V[token_map])]
    plain = decoded(lm.with_tree("chain:0"), PROMPTS[:1], [20])
    assert rows(runtime.advance(batch).state) == rows(plain)


def test_no_step_sorts_the_vocabulary(lm):
    """XLA makes a `top_k` of its sort, unless something else wants a part of the sorted scores."""
    runtime = make_runtime(lm.with_tree("dynamic:8"))
    batch = runtime.start(make_request([8] * 3), PROMPTS)
    arrays = (batch.state, jnp.zeros((3,), bool), jnp.int32(4), jnp.int32(0))
    shapes = (runtime.shapes, *map(programs.abstract, arrays))
    program, _ = programs.compiled(step.decode, (runtime.decoder, ()), None, shapes)
    assert "TopK" in program.as_text()
    assert not re.findall(r"= .* sort\(.*", program.as_text())


def test_a_model_without_heads_refuses(lm):
    bare = dataclasses.replace(lm, heads_config=None, heads_params=None)
    with pytest.raises(UserError, match="a dynamic tree needs heads"):
        bare.with_tree("dynamic:8")
    assert bare.with_tree("dynamic:1").tree.R == 1


def test_a_size_that_cannot_be():
    with pytest.raises(UserError, match="2 or more"):
        DynamicTree(1)
