"""The trees that the benchmark tries: sizes of the published ones, and a grown one beyond them."""

from collections.abc import Sequence

import numpy as np

from medusa_jax import UserError
from medusa_jax.config import MedusaConfig
from medusa_jax.model import AUTO
from medusa_jax.tree.build import Tree, build_tree
from medusa_jax.tree.dynamic import AnyTree
from medusa_jax.tree.presets import load_any_tree, load_tree
from medusa_jax.tree.search import search_tree

_PRESET = "mc_sim_7b_63"
# For a real model, with small ones too: these are what pays on a CPU.
DEFAULT_TREES = f"{AUTO},chain:1,{_PRESET}:2,:4,:6,:8,:16,:64"
_SHAPE_SIZES = (8, 16, 32, 64)
_GROWN = 128  # published trees end at 64


def parse_trees(text: str) -> list[str]:
    """Splits "auto,NAME:2,:8,chain:1" into ["auto", "NAME:2", "NAME:8", "chain:1"].

    Raises:
      UserError: a tree that does not exist, or `:N` with no name before it.
    """
    trees: list[str] = []
    tree = ""
    for item in (part.strip() for part in text.split(",")):
        name = tree.rpartition(":")[0] or tree
        if item.startswith(":") and not name:
            raise UserError(f"--trees {text}: {item} needs a tree's name in front of it")
        tree = name + item if item.startswith(":") else item
        if tree != AUTO:
            load_any_tree(tree)
        if tree not in trees:
            trees.append(tree)
    return trees


def fitting_trees(specs: Sequence[str] | None, heads: MedusaConfig | None) -> list[str]:
    """The trees to measure a real model with; None: as many of the default ones as it can fill."""
    if specs is not None:
        return list(specs)
    if heads is None:
        return []
    trees = parse_trees(DEFAULT_TREES)
    return [t for t in trees if t == AUTO or load_tree(t).max_depth <= heads.num_heads]


def shape_trees(specs: Sequence[str] | None, num_heads: int) -> dict[str, AnyTree]:
    """The trees to measure a shape with, by name.

    Args:
      specs: see `load_any_tree`; None: sizes 8 to 64 of a published tree and, as published
        trees end there, a grown one of 128.
      num_heads: M, heads of the model.

    Raises:
      UserError: an unknown tree, "auto", or a tree that needs more heads.
    """
    if specs is not None:
        if AUTO in specs:
            raise UserError("--trees auto chooses for a real model: name trees for a --shape")
        return {spec: load_any_tree(spec, num_heads) for spec in specs}
    trees: dict[str, AnyTree] = {
        f"{_PRESET}:{size}": load_tree(f"{_PRESET}:{size}") for size in _SHAPE_SIZES
    }
    return trees | {f"grown:{_GROWN}": grow_tree(_GROWN, num_heads)}


def grow_tree(nodes: int, num_heads: int) -> Tree:
    """The best tree if head k's r-th guess (both from 0) is right 0.6 * 0.8^k / 2^r of the time.

    Made-up accuracies, of about the kind that trained heads have.
    """
    head, rank = np.arange(num_heads)[:, None], np.arange(nodes)[None]
    return build_tree(search_tree(0.6 * 0.8**head / 2.0**rank, nodes - 1))
