"""From ranks to acceptance rates: counted where steps of decoding begin, and nowhere else."""

from collections.abc import Sequence

import numpy as np

from medusa_jax.tree.rates import Rates, measured_rates
from medusa_jax.tree.search import best_tree

NUM_RANKS = 20
_NUM_PARENTS = 4
# The walk that picks the positions: with it, rates foretell the tokens per step of walks through
# trees of 2 to 64 nodes within 1.3 %; rates over all positions foretell 2 to 6 % too many
# (docs/design/drafts.md).
_WALK_NODES = 8


def acceptance_rates(ranks: Sequence[np.ndarray]) -> Rates:
    """Rates of acceptance in decoding.

    Not every position is the root of a step: those within an accepted path are not, and there the
    text is easier than elsewhere. So the rates of all positions give a tree, a walk through the
    texts with that tree gives the roots, and only those count.

    Args:
      ranks: those of each text, see `acceptance.label_ranks`.
    """
    everywhere = measured_rates(np.concatenate(ranks), NUM_RANKS, _NUM_PARENTS)
    paths = best_tree(everywhere, _WALK_NODES - 1)
    roots = [rank_TM[walk(rank_TM, paths)] for rank_TM in ranks]
    return measured_rates(np.concatenate(roots), NUM_RANKS, _NUM_PARENTS)


def walk(rank_TM: np.ndarray, paths: Sequence[Sequence[int]]) -> list[int]:
    """Where the steps of decoding a text begin.

    Args:
      rank_TM: int, rank of the token m + 1 after each root; negative where the text has ended.
      paths: of the tree, prefix-closed.

    Returns:
      Positions of the roots: as many as there are steps.
    """
    nodes, roots, t = {tuple(path) for path in paths}, [], 0
    while t < len(rank_TM):
        roots.append(t)
        path = tuple(rank_TM[t].tolist())
        depth = 0
        while depth < len(path) and path[: depth + 1] in nodes:
            depth += 1
        t += 1 + depth
    return roots
