"""Simulated acceptance: whole steps of a random model that accept what was drawn."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from infer.bench.simulated import Simulated, simulated
from medusa_jax.decoding.drafting.draft import Draft
from medusa_jax.decoding.runtime import make_request, make_runtime
from medusa_jax.tree.build import build_tree
from medusa_jax.tree.dynamic import DynamicTree
from medusa_jax.tree.rates import Rates
from tests.medusa_jax.tiny import tiny_lm

# The first head's best two tokens are right with 0.5 and 0.2, the second's with 0.4 and 0.1.
RATES = Rates(np.array([[[0.5, 0.2]], [[0.4, 0.1]]]))


def draft_of(tree, rows):
    token_BR = jnp.zeros((rows, tree.R), jnp.int32)
    shape = (tree.parent_R[None], tree.depth_R[None], tree.mask_RR[None])
    return Draft(token_BR, *map(jnp.asarray, shape), tree.max_depth)


def test_how_deep_by_hand():
    tree = build_tree([[0], [1], [0, 0], [0, 1], [1, 0]])
    # Depth 1: 0.5 + 0.2. Depth 2: 0.5 * 0.4 + 0.5 * 0.1 + 0.2 * 0.4.
    assert simulated(tree, RATES).reach == pytest.approx((0.7, 0.33))
    # The best five nodes beside the root are those, and so the best tree of six.
    assert simulated(DynamicTree(6), RATES).reach == pytest.approx((0.7, 0.33))
    assert simulated(build_tree([]), RATES).reach == ()


def test_depths_are_drawn_at_these_rates_and_paths_are_paths():
    tree, rows = build_tree([[0], [1], [1, 0]]), 4000
    rule = Simulated((0.7, 0.33))
    request = jax.tree.map(jnp.asarray, make_request([9] * rows))
    logits_BRV = jnp.zeros((rows, tree.R, 5)).at[:, :, 3].set(1)
    verdict = rule.judge(draft_of(tree, rows), logits_BRV, request, jnp.zeros(rows, jnp.int32))
    num_B = np.asarray(verdict.num_B)
    # Standard errors of 0.008 at most.
    assert np.mean(num_B >= 1) == pytest.approx(0.7, abs=0.04)
    assert np.mean(num_B >= 2) == pytest.approx(0.33, abs=0.04)
    paths = {tuple(nodes) for nodes in np.asarray(verdict.nodes_BA).tolist()}
    assert paths == {(0, 0, 0), (0, 1, 1), (0, 2, 3)}
    assert set(np.asarray(verdict.next_root_B).tolist()) == {3}


def test_another_position_draws_anew():
    tree, rows = build_tree([[0]]), 64
    request = jax.tree.map(jnp.asarray, make_request([9] * rows))
    logits_BRV = jnp.zeros((rows, tree.R, 5))
    drawn = {
        tuple(
            np.asarray(
                Simulated((0.5,))
                .judge(
                    draft_of(tree, rows), logits_BRV, request, jnp.full(rows, position, jnp.int32)
                )
                .num_B
            ).tolist()
        )
        for position in range(4)
    }
    assert len(drawn) == 4


@pytest.mark.parametrize("always", [True, False])
def test_the_loop_advances_by_what_was_drawn(always):
    """Random heads: without the rule next to nothing would be accepted."""
    lm = tiny_lm()
    depth = lm.tree.max_depth
    runtime = make_runtime(lm, rule=Simulated((float(always),) * depth))
    batch = runtime.start(make_request([40] * 2), [[1, 2, 3], [4, 5]])
    state = runtime.advance(batch, max_steps=3).state
    tokens = 3 * (1 + depth * always)
    np.testing.assert_array_equal(state.num_new_B, [tokens] * 2)
    np.testing.assert_array_equal(state.cache.length_B, [3 + tokens, 2 + tokens])
