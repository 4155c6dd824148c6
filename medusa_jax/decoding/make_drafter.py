"""The drafter that suits heads and tree."""

from typing import Any

from medusa_jax.config import MedusaConfig
from medusa_jax.decoding.branch_drafters import branch_drafter, dynamic_branch_drafter
from medusa_jax.decoding.drafters import Drafter, medusa_drafter
from medusa_jax.decoding.dynamic import dynamic_drafter
from medusa_jax.tree.dynamic import AnyTree, DynamicTree


def make_drafter(
    config: MedusaConfig,
    heads: dict[str, Any],
    backbone: dict[str, Any],
    tree: AnyTree,
    dtype: str,
    platform: str,
) -> tuple[Drafter, dict[str, Any]]:
    """What drafts with these heads, and what it reads; arrays that describe a tree are the host's.

    Args:
      config: of the heads, at least as many as the tree has levels.
      heads: their parameters.
      backbone: the base model's.
      tree: of two nodes or more.
      dtype: compute dtype.
      platform: "cpu", "gpu" or "tpu".
    """
    if isinstance(tree, DynamicTree):
        make = dynamic_branch_drafter if config.sees_branch else dynamic_drafter
        return make(config, heads, backbone, tree, dtype)
    make_static = branch_drafter if config.sees_branch else medusa_drafter
    return make_static(config, heads, backbone, tree, dtype, platform)
