"""A tree that is chosen anew at every step: only its size is known beforehand."""

import dataclasses

from medusa_jax.errors import UserError
from medusa_jax.tree.build import Tree


@dataclasses.dataclass(frozen=True)
class DynamicTree:
    """Stands where a `Tree` may: each step picks the nodes itself.

    Attributes:
      R: nodes, root included.

    Raises:
      UserError: fewer than 2.
    """

    R: int

    def __post_init__(self) -> None:
        if self.R < 2:
            raise UserError(f"a dynamic tree of {self.R} nodes: give it 2 or more, root included")


AnyTree = Tree | DynamicTree


def heads_used(tree: AnyTree, num_heads: int) -> int:
    """How many of a model's heads a tree makes use of: the depth of a draft, at most.

    For a dynamic tree of R nodes it is log2 R, rounded up. Every head costs time, and further ones
    would hardly ever get a node (docs/benchmarks.md).
    """
    if isinstance(tree, DynamicTree):
        return min(num_heads, (tree.R - 1).bit_length())
    return tree.max_depth
