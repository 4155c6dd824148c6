"""Finds the tree with the most expected tokens per step."""

import heapq

import numpy as np

from medusa_jax.errors import UserError
from medusa_jax.tree.rates import Rates, independent_rates


def search_tree(accuracy: np.ndarray, num_nodes: int) -> list[list[int]]:
    """The best tree for heads whose ranks are independent of each other (paper, section 2.3.3).

    Args:
      accuracy: float [M, ranks], share of positions whose label k + 1 tokens ahead is of this rank
        (from 0) among the logits of head k.
      num_nodes: see `best_tree`.
    """
    return best_tree(independent_rates(accuracy), num_nodes)


def best_tree(rates: Rates, num_nodes: int) -> list[list[int]]:
    """The tree of this size with the most expected tokens per step; exact for any rates.

    Expected tokens are 1 + the sum over nodes of the product of the rates on their paths. No rate
    is above 1, so no node has a larger product than its parent: the nodes with the largest
    products, parents first at ties, are a tree by themselves, and no set of nodes, tree or not, has
    a larger sum. They are taken in that order. A node's children, whose rates need not fall with
    the rank, become candidates one by one: the best when the node is taken, each of the others when
    the one before it is.

    Args:
      rates: of acceptance.
      num_nodes: besides the root, at least 1.

    Returns:
      Paths for `build_tree`, the most probable first: every beginning is the best smaller tree.

    Raises:
      UserError: there are fewer combinations of heads and ranks than nodes.
    """
    num_heads, _, num_ranks = rates.rate_MPK.shape
    most = sum(num_ranks**depth for depth in range(1, num_heads + 1))
    if not 1 <= num_nodes <= most:
        raise UserError(f"a tree of {num_nodes} nodes beside the root: choose 1 to {most}")
    frontier: list[tuple[float, tuple[int, ...], float, list[int]]] = []

    def add_child(parent: tuple[int, ...], value: float, ranks: list[int]) -> None:
        """Makes the best of a parent's remaining children, `ranks`, a candidate."""
        if ranks:
            rate_K = rates.children(len(parent), parent[-1] if parent else 0)
            path = (*parent, ranks[0])
            heapq.heappush(frontier, (-value * rate_K[ranks[0]], path, value, ranks[1:]))

    def add_first_child(path: tuple[int, ...], value: float) -> None:
        rate_K = rates.children(len(path), path[-1] if path else 0)
        add_child(path, value, np.argsort(-rate_K, kind="stable").tolist())

    taken: list[list[int]] = []
    add_first_child((), 1.0)
    while len(taken) < num_nodes:
        negative, path, parent_value, others = heapq.heappop(frontier)
        taken.append(list(path))
        add_child(path[:-1], parent_value, others)
        add_first_child(path, -negative)
    return taken
