"""A model with its heads: everything that generation needs, in one value."""

import dataclasses
from typing import Any

import jax

from medusa_jax.config import LlamaConfig, MedusaConfig
from medusa_jax.errors import UserError
from medusa_jax.tree.build import build_tree
from medusa_jax.tree.dynamic import AnyTree, DynamicTree
from medusa_jax.tree.presets import load_any_tree
from medusa_jax.tuning.measured import Measured
from medusa_jax.tuning.prospect import Prospect, prospect

AUTO = "auto"
_SHORT = 256  # slots of the cache


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class MedusaLM:
    """A backbone with Medusa heads: data, and nothing that depends on how it is decoded.

    Attributes:
      config: architecture of the backbone.
      params: its parameters (`medusa_jax.nn.params` lists them).
      heads_config: the Medusa heads, or None.
      heads_params: their parameters, or None.
      tokenizer: transformers tokenizer; None: the model knows token ids only.
      eos_ids: token ids that end a reply.
      dtype: compute and parameter dtype, "float32", "bfloat16" or "float16".
      tree: what each step proposes unless a call says otherwise; default: nothing.
      measured: what is known about acceptance, and about step times on this machine.
      auto: unless a call says otherwise, decoding chooses the tree (`medusa_jax.decoding.auto`);
        `tree` is what it would choose for one row of a short text.
    """

    config: LlamaConfig
    params: dict[str, Any]
    heads_config: MedusaConfig | None = None
    heads_params: dict[str, Any] | None = None
    tokenizer: Any = None
    eos_ids: tuple[int, ...] = ()
    dtype: str
    tree: AnyTree = dataclasses.field(default_factory=lambda: build_tree([]))
    measured: Measured = dataclasses.field(default_factory=Measured)
    auto: bool = False

    @property
    def platform(self) -> str:
        """Kind of device that holds the parameters: "cpu", "gpu" or "tpu"."""
        leaf = jax.tree.leaves(self.params)[0]
        devices = leaf.sharding.device_set if isinstance(leaf, jax.Array) else jax.devices()
        return next(iter(devices)).platform

    def with_tree(self, tree: str | AnyTree) -> "MedusaLM":
        """The same model with another default tree.

        Args:
          tree: "auto", or what `medusa_jax.tree.presets.load_any_tree` takes.

        Raises:
          UserError: the tree needs more of the heads than they have.
        """
        return dataclasses.replace(self, tree=self.resolve_tree(tree), auto=self.is_auto(tree))

    def is_auto(self, tree: str | AnyTree | None) -> bool:
        """Whether decoding chooses the tree, when a call asks for `tree` (None: the model's)."""
        return tree == AUTO if isinstance(tree, str) else tree is None and self.auto

    def prospect(self, temperature: float, batch: int) -> Prospect:
        """What trees promise; see `medusa_jax.tuning.prospect`."""
        return prospect(
            self.heads_config,
            self.measured,
            platform=self.platform,
            dtype=self.dtype,
            temperature=temperature,
            batch=batch,
        )

    def resolve_tree(self, tree: str | AnyTree | None) -> AnyTree:
        """A tree that the heads can fill; None: the model's own; "auto": see `auto`.

        Raises:
          UserError: the tree needs more of the heads than they have, or there is no such tree.
        """
        available = self.heads_config.num_heads if self.heads_config else 0
        if isinstance(tree, str) and tree == AUTO:
            own = self.prospect(0.0, 1)
            tree = own.trees[own.choose(_SHORT).nodes]
        elif tree is None:
            tree = self.tree
        elif not isinstance(tree, AnyTree):
            tree = load_any_tree(tree, available)
        check_tree(tree, self.heads_config)
        return tree


def check_tree(tree: AnyTree, heads: MedusaConfig | None) -> None:
    """Refuses a tree that these heads cannot fill.

    Raises:
      UserError: it has more levels than there are heads, or more ranks than they have tokens.
    """
    available = heads.num_heads if heads else 0
    if isinstance(tree, DynamicTree):
        if not available:
            raise UserError("a dynamic tree needs heads, the model has none: choose chain:0")
        return
    if tree.max_depth > available:
        raise UserError(
            f"the tree needs {tree.max_depth} heads, the model has {available}: choose a tree of "
            f"depth {available} or less, for example chain:{available}"
        )
    if heads and tree.max_depth and tree.top_k > heads.vocab_size:
        raise UserError(
            f"the tree has a node of rank {tree.top_k - 1}, the heads propose only "
            f"{heads.vocab_size} tokens: choose a tree with ranks below {heads.vocab_size}"
        )
