"""Finds the tree with the most expected tokens per step for given heads."""

import heapq
import math

import numpy as np

from medusa_jax.errors import UserError


def search_tree(accuracy: np.ndarray, num_nodes: int) -> list[list[int]]:
    """Grows a tree by its most probable next node (paper, section 2.3.3).

    The ranks of different heads are taken to be independent: a node is accepted with the product of
    the accuracies along its path, and the expected tokens per step are 1 + the sum over all nodes.
    A node's first child and its next sibling become candidates when it is taken, so that the result
    is the best tree of its size wherever accuracies do not rise with the rank.

    Args:
      accuracy: float [M, ranks], share of positions whose label k + 1 tokens ahead is of this rank
        (from 0) among the logits of head k.
      num_nodes: nodes beside the root, at least 1.

    Returns:
      Paths for `build_tree`, the most probable first: every beginning is a smaller tree.

    Raises:
      UserError: there are fewer combinations of heads and ranks than nodes.
    """
    num_heads, num_ranks = accuracy.shape
    most = sum(num_ranks**depth for depth in range(1, num_heads + 1))
    if not 1 <= num_nodes <= most:
        raise UserError(f"a tree of {num_nodes} nodes beside the root: choose 1 to {most}")

    def candidate(path: tuple[int, ...]) -> tuple[float, tuple[int, ...]]:
        return -math.prod(accuracy[head, rank] for head, rank in enumerate(path)), path

    frontier, taken = [candidate((0,))], []
    while len(taken) < num_nodes:
        _, path = heapq.heappop(frontier)
        taken.append(list(path))
        if path[-1] + 1 < num_ranks:
            heapq.heappush(frontier, candidate((*path[:-1], path[-1] + 1)))
        if len(path) < num_heads:
            heapq.heappush(frontier, candidate((*path, 0)))
    return taken
