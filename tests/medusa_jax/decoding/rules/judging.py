"""Random drafts, and rules applied to them as plain functions of tokens and logits."""

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np

from medusa_jax.decoding.drafting.draft import Draft
from medusa_jax.decoding.rules.greedy import Greedy
from medusa_jax.decoding.rules.typical import Typical, TypicalNumbers
from medusa_jax.decoding.state import Request
from medusa_jax.tree.build import build_tree

V = 5
B = 64  # many rows per compiled tree


@st.composite
def random_paths(draw, max_nodes=14):
    nodes = [()]
    for _ in range(draw(st.integers(0, max_nodes))):
        child = (*draw(st.sampled_from(nodes)), draw(st.integers(0, 3)))
        if child not in nodes:
            nodes.append(child)
    return nodes[1:]


def numbered(paths):
    """Node numbers of all prefixes, and the maximal paths."""
    nodes = [(), *sorted(paths, key=lambda p: (len(p), p))]
    leaves = [p for p in reversed(nodes) if not any(q[:-1] == p for q in nodes if q)]
    return {path: n for n, path in enumerate(nodes)}, leaves


def random_case(paths, seed):
    rng = np.random.default_rng(seed)
    tree = build_tree(paths)
    tokens_BR = rng.integers(0, V, (B, tree.R), dtype=np.int32)
    logits_BRV = rng.normal(size=(B, tree.R, V)).astype(np.float32) * 2
    return tree, tokens_BR, logits_BRV


def draft_of(tree, tokens_BR):
    shape = (jnp.asarray(x)[None] for x in (tree.parent_R, tree.depth_R, tree.mask_RR))
    return Draft(jnp.asarray(tokens_BR), *shape, tree.max_depth)


def request_of(rows, numbers=(), seed=0):
    keys = jax.random.split(jax.random.key(seed), rows)
    zero_B = jnp.zeros((rows,), jnp.int32)
    return Request(zero_B, jnp.full((rows, 1), -1, jnp.int32), jax.random.key_data(keys), numbers)


def numbers_of(rows, temperature, epsilon, delta):
    full = (jnp.full((rows,), x, jnp.float32) for x in (temperature, epsilon, delta))
    return TypicalNumbers(*full)


_judge = jax.jit(lambda rule, *args: rule.judge(*args), static_argnums=0)


def greedy(tree, tokens_BR, best_BR):
    """The greedy verdict where `best_BR` are the base model's best tokens; -1: one not drafted."""
    width = int(max(tokens_BR.max(), best_BR.max())) + 2
    logits_BRV = np.eye(width, dtype=np.float32)[best_BR]
    rows = len(tokens_BR)
    draft = draft_of(tree, tokens_BR)
    return _judge(Greedy(), draft, logits_BRV, request_of(rows), jnp.zeros((rows,), jnp.int32))


def typical(tree, tokens_BR, logits_BRV, temperature, epsilon, delta, sampled_root=False):
    rows = len(tokens_BR)
    request = request_of(rows, numbers_of(rows, temperature, epsilon, delta))
    draft, zero_B = draft_of(tree, tokens_BR), jnp.zeros((rows,), jnp.int32)
    return _judge(Typical(sampled_root), draft, logits_BRV, request, zero_B)


def assert_accepted(verdict, expected):
    """Expected holds, per row, the nodes of the accepted path, root included."""
    width = verdict.nodes_BA.shape[1]
    padded = [nodes + nodes[-1:] * (width - len(nodes)) for nodes in expected]
    assert verdict.num_B.tolist() == [len(nodes) - 1 for nodes in expected]
    assert verdict.nodes_BA.tolist() == padded
    assert verdict.last_B.tolist() == [nodes[-1] for nodes in expected]
    assert {leaf.dtype for leaf in jax.tree.leaves(verdict)} == {jnp.dtype(jnp.int32)}
