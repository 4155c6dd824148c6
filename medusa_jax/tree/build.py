"""Token trees: a list of paths becomes the buffers of tree attention and verification.

A path `[i1, ..., id]` is the node reached by the i1-th ranked token of head 1, then the i2-th of
head 2, and so on (ranks from 0). The root, the base model's own next token, is implicit. The
original's name for this is `generate_medusa_buffers`.
Source: Medusa (arXiv 2401.10774), sections 2.1.2 and 2.3.3.
"""

import dataclasses
import reprlib
from collections.abc import Sequence

import jax
import numpy as np

from medusa_jax.errors import UserError

_MAX_RANK = 2**31 - 2  # rank + 1 must fit in int32


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Tree:
    """Buffers of one token tree of R nodes.

    Node 0 is the root, node n the n-th path in order of (length, ranks). The arrays are numpy on
    the host and are passed to jitted functions as arguments.

    Attributes:
      mask_RR: bool; row r attends to column c: c is r itself or one of its ancestors.
      depth_R: int32; distance from the root. Head `depth` proposes the node's token.
      rank_R: int32; which of that head's ranked tokens the node holds (root: 0).
      parent_R: int32; (root: 0).
      max_depth: number of heads that the tree needs.
      top_k: number of ranked tokens that it needs from each head, at least 1.
    """

    mask_RR: np.ndarray
    depth_R: np.ndarray
    rank_R: np.ndarray
    parent_R: np.ndarray
    max_depth: int = dataclasses.field(metadata={"static": True})
    top_k: int = dataclasses.field(metadata={"static": True})

    @property
    def R(self) -> int:
        """Number of nodes, root included."""
        return self.mask_RR.shape[0]

    def paths(self) -> list[list[int]]:
        """The paths that the tree was built from, in node order."""
        mask_RR, rank_R = np.asarray(self.mask_RR), np.asarray(self.rank_R)
        return [rank_R[np.flatnonzero(row_R)[1:]].tolist() for row_R in mask_RR[1:]]


def build_tree(paths: Sequence[Sequence[int]]) -> Tree:
    """Turns a list of paths, in any order, into the buffers of a tree.

    Args:
      paths: prefix-closed list of paths; empty for the root alone (autoregressive decoding).

    Returns:
      The tree, R = len(paths) + 1.

    Raises:
      UserError: a path is empty, repeated, not made of ranks >= 0, or its parent is missing.
    """
    nodes = [(), *_checked(paths)]
    index = {path: n for n, path in enumerate(nodes)}
    parent_R = np.array([index[path[:-1]] for path in nodes], np.int32)
    depth_R = np.array([len(path) for path in nodes], np.int32)
    rank_R = np.array([path[-1] if path else 0 for path in nodes], np.int32)
    mask_RR = np.eye(len(nodes), dtype=bool)
    for n in range(1, len(nodes)):  # parents come first, so their rows are complete
        mask_RR[n] |= mask_RR[parent_R[n]]
    return Tree(
        mask_RR=mask_RR,
        depth_R=depth_R,
        rank_R=rank_R,
        parent_R=parent_R,
        max_depth=int(depth_R.max()),
        top_k=int(rank_R.max()) + 1,
    )


def _checked(paths: Sequence[Sequence[int]]) -> list[tuple[int, ...]]:
    """The valid paths in node order."""
    seen: set[tuple[int, ...]] = set()
    for number, path in enumerate(paths, start=1):
        ranks = _checked_path(number, path)
        if ranks in seen:
            raise UserError(f"path {number}, {list(ranks)}, is listed twice: remove one")
        seen.add(ranks)
    ordered = sorted(seen, key=lambda ranks: (len(ranks), ranks))
    for ranks in ordered:
        if len(ranks) > 1 and ranks[:-1] not in seen:
            raise UserError(f"path {list(ranks)} has no parent: add {list(ranks[:-1])} to the list")
    return ordered


def _checked_path(number: int, path: Sequence[int]) -> tuple[int, ...]:
    is_list = isinstance(path, Sequence) and not isinstance(path, str | bytes)
    if not is_list or not path or not all(_is_rank(rank) for rank in path):
        raise UserError(
            f"path {number} is {reprlib.repr(path)}: "
            "write a list of one or more ranks (whole numbers from 0), such as [0, 2]"
        )
    return tuple(int(rank) for rank in path)


def _is_rank(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        return False
    return 0 <= int(value) <= _MAX_RANK
