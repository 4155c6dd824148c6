"""How often the nodes of a tree are accepted: rates of acceptance, given that the parent was."""

import dataclasses
from typing import Any

import numpy as np

from medusa_jax.errors import UserError
from medusa_jax.tree.build import Tree

_PRIOR_COUNT = 20.0  # observations that the rates of all parents count as


@dataclasses.dataclass(frozen=True, eq=False)
class Rates:
    """Acceptance along a path, one edge at a time.

    Attributes:
      rate_MPK: float64 in 0 .. 1. [m, p, k] is the rate at which a child of rank k at depth m + 1
        is accepted among the steps that accepted its parent, a node of rank p; the root counts as
        one of rank 0. The last p stands for all higher ranks too, so that P = 1 says that the
        parent's rank does not matter. Ranks from K on are never accepted.

    Raises:
      UserError: another number of axes, an empty one, or a number outside 0 .. 1.
    """

    rate_MPK: np.ndarray

    def __post_init__(self) -> None:
        rate_MPK = np.asarray(self.rate_MPK, np.float64)
        if rate_MPK.ndim != 3 or not rate_MPK.size:
            raise UserError("acceptance rates must be a list by head, parent's rank and rank")
        if not ((rate_MPK >= 0) & (rate_MPK <= 1)).all():
            raise UserError("acceptance rates must lie between 0 and 1")
        object.__setattr__(self, "rate_MPK", rate_MPK)

    @classmethod
    def from_json(cls, value: Any) -> "Rates":
        """What `to_json` gave.

        Raises:
          UserError: it is something else.
        """
        try:
            return cls(np.asarray(value, np.float64))
        except (TypeError, ValueError, OverflowError) as error:
            raise UserError(f"not a list of acceptance rates: {error}") from None

    def to_json(self) -> list[list[list[float]]]:
        """Nested lists, which JSON keeps exactly."""
        return self.rate_MPK.tolist()

    def children(self, depth: int, rank: int) -> np.ndarray:
        """Rates float64 [K] of the children of a node; empty below the last head's.

        Args:
          depth: of the node, 0 for the root.
          rank: of the node, 0 for the root.
        """
        if depth >= self.rate_MPK.shape[0]:
            return np.zeros(0)
        return self.rate_MPK[depth, min(rank, self.rate_MPK.shape[1] - 1)]

    def of_nodes(self, tree: Tree) -> np.ndarray:
        """How often each node is accepted in a step: float64 [R], 1 for the root."""
        accepted_R = np.ones(tree.R)
        for node in range(1, tree.R):  # parents come first
            parent, rank = tree.parent_R[node], tree.rank_R[node]
            rate_K = self.children(int(tree.depth_R[parent]), int(tree.rank_R[parent]))
            accepted_R[node] = accepted_R[parent] * (rate_K[rank] if rank < len(rate_K) else 0.0)
        return accepted_R


def expected_tokens(tree: Tree, rates: Rates) -> float:
    """Expected tokens per step: the root, and every node as often as it is accepted.

    Where siblings exclude each other (greedy and lossless acceptance) this is the expected length
    of the accepted path. Typical acceptance may take siblings; then it is an upper bound.
    """
    return float(rates.of_nodes(tree).sum())


def independent_rates(accuracy_MK: np.ndarray) -> Rates:
    """The paper's assumption (section 2.3.3): the ranks on the path above change nothing.

    Args:
      accuracy_MK: float, share of positions whose label k + 1 tokens ahead is of each rank among
        the logits of head k.
    """
    return Rates(np.asarray(accuracy_MK, np.float64)[:, None])


def measured_rates(rank_TM: np.ndarray, num_ranks: int, num_parents: int) -> Rates:
    """Rates counted over positions of text.

    A path is accepted where its ranks are those of the labels. Deeper down there are few counts for
    each rank of a parent, so each row is drawn towards that of all parents of its depth, the more
    so the fewer counts it has.

    Args:
      rank_TM: int, rank of the label of every head (from 0) at T positions; negative where the
        text ends before the label.
      num_ranks: K, ranks that are told apart; the label may have a higher one.
      num_parents: P, ranks of the parent that are told apart.
    """
    T, M = rank_TM.shape
    rate_MPK = np.zeros((M, num_parents, num_ranks))
    parent_T, is_accepted_T = np.zeros(T, np.int64), np.ones(T, bool)
    for m in range(M):
        rank_T = rank_TM[:, m]
        is_accepted_T = is_accepted_T & (rank_T >= 0)
        rate_MPK[m] = _rows(parent_T[is_accepted_T], rank_T[is_accepted_T], rate_MPK.shape[1:])
        is_accepted_T = is_accepted_T & (rank_T < num_ranks)
        parent_T = np.minimum(rank_T, num_parents - 1)
    return Rates(rate_MPK)


def _rows(parent_T: np.ndarray, rank_T: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Rates [P, K] of one depth."""
    hits_PK, count_P = np.zeros(shape), np.bincount(parent_T, minlength=shape[0])
    is_told = rank_T < shape[1]
    np.add.at(hits_PK, (parent_T[is_told], rank_T[is_told]), 1)
    rate_K = hits_PK.sum(0) / max(count_P.sum(), 1)
    return (hits_PK + _PRIOR_COUNT * rate_K) / (count_P[:, None] + _PRIOR_COUNT)
