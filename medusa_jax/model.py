"""A loaded model with its heads and tree: everything that generation needs, in one value."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from medusa_jax.config import LlamaConfig, MedusaConfig
from medusa_jax.errors import UserError
from medusa_jax.io import default_model
from medusa_jax.io.heads import load as head_files
from medusa_jax.io.model import LoadedModel, load_model
from medusa_jax.tree.build import Tree, build_tree, load_tree

SHIPPED_HEADS = Path(__file__).parent / "data" / "heads" / "smollm2-135m-instruct"
# Measured, docs/benchmarks.md: on an accelerator a tree of tokens costs little more than one, on a
# CPU in float32 no tree is as fast as plain decoding, in bfloat16 the second token is nearly free.
_DEFAULT_TREES = {("cpu", "float32"): "chain:0", ("cpu", "bfloat16"): "mc_sim_7b_63:2"}
_DEFAULT_TREE_ELSEWHERE = "mc_sim_7b_63"


@dataclasses.dataclass(frozen=True, eq=False)
class MedusaLM:
    """A backbone with Medusa heads, ready to decode.

    Attributes:
      config: architecture of the backbone.
      params: its parameters (layout: docs/design.md).
      heads_config: the Medusa heads, or None.
      heads_params: their parameters, or None.
      tokenizer: transformers tokenizer.
      eos_ids: token ids that end a reply.
      dtype: compute and parameter dtype, "float32" or "bfloat16".
      tree: what each step proposes.
      executables: compiled functions, kept so that a second call does not compile again.
    """

    config: LlamaConfig
    params: dict[str, Any]
    heads_config: MedusaConfig | None
    heads_params: dict[str, Any] | None
    tokenizer: Any
    eos_ids: tuple[int, ...]
    dtype: str
    tree: Tree
    executables: dict[Any, Any] = dataclasses.field(default_factory=dict, repr=False)

    def with_tree(self, tree: str | Tree) -> "MedusaLM":
        """The same model with another tree (see `medusa_jax.tree.build.load_tree`).

        Raises:
          UserError: the tree needs more heads than there are.
        """
        available = self.heads_config.num_heads if self.heads_config else 0
        if isinstance(tree, str):
            tree = load_tree(tree, available)
        if tree.max_depth > available:
            raise UserError(
                f"the tree needs {tree.max_depth} heads, the model has {available}: choose a tree "
                f"of depth {available} or less, for example chain:{available}"
            )
        return dataclasses.replace(self, tree=jax.device_put(tree))


def default_dtype() -> str:
    """float32 on a CPU, which computes nothing faster in bfloat16; bfloat16 elsewhere."""
    return "float32" if jax.default_backend() == "cpu" else "bfloat16"


def load(
    model: str | None = None,
    medusa: str | None = None,
    *,
    dtype: str | None = None,
    tree: str | None = None,
    mesh: jax.sharding.Mesh | None = None,
) -> MedusaLM:
    """Loads a model and its Medusa heads.

    Args:
      model: Hugging Face folder, hub id or GGUF file; default: SmolLM2-135M-Instruct.
      medusa: folder, file or hub id with heads; "none": plain autoregressive decoding; default:
        heads found beside the model, or the shipped ones for the default model.
      dtype: "float32" or "bfloat16"; default: `default_dtype()`.
      tree: preset, file or "chain:K" (see `medusa_jax.tree.build.load_tree`); default: what was
        measured to be fastest on this kind of device; on a CPU in float32 that is "chain:0".
      mesh: devices to spread the parameters over, see `medusa_jax.sharding.make_mesh`; default:
        all on the default device.

    Raises:
      UserError: anything missing, unreadable or that does not fit together.
    """
    dtype = dtype or default_dtype()
    if dtype not in ("float32", "bfloat16"):
        raise UserError(f"dtype is {dtype!r}: choose float32 or bfloat16")
    wanted = None if tree is None else load_tree(tree)  # before anything is downloaded or read
    source = str(default_model.default_model_path()) if model is None else model
    base = load_model(source, jnp.dtype(dtype), mesh)
    lm = with_heads(base, _heads_path(medusa, None if model is None else base.path), dtype, mesh)
    if wanted is None and lm.heads_config is None:
        return lm
    return lm.with_tree(wanted or _default_tree(dtype, lm.heads_config))


def with_heads(
    base: LoadedModel,
    heads: Path | None,
    dtype: str,
    mesh: jax.sharding.Mesh | None = None,
    heads_dtype: str | None = None,
) -> MedusaLM:
    """A backbone with the heads in a folder or file, and with a tree of the root alone.

    Args:
      base: the backbone.
      heads: where they are; None: no heads.
      dtype: of the backbone, "float32" or "bfloat16".
      mesh: see `load`.
      heads_dtype: default: that of the backbone.

    Raises:
      UserError: the heads cannot be read, or are for another model.
    """
    heads_config = heads_params = None
    if heads is not None:
        heads_config, heads_params = head_files.load_heads(
            heads,
            hidden_size=base.config.hidden_size,
            vocab_size=base.config.vocab_size,
            dtype=jnp.dtype(heads_dtype or dtype),
            mesh=mesh,
        )
    return MedusaLM(
        config=base.config,
        params=base.params,
        heads_config=heads_config,
        heads_params=heads_params,
        tokenizer=base.tokenizer,
        eos_ids=base.eos_ids,
        dtype=dtype,
        tree=jax.device_put(build_tree([])),
    )


def _heads_path(medusa: str | None, model_path: Path | None) -> Path | None:
    """Where the heads are; None: decode without. `model_path` is None for the default model."""
    if medusa == "none":
        return None
    if medusa is not None:
        return head_files.resolve_heads(medusa)
    if model_path is None:
        return SHIPPED_HEADS
    found = head_files.find_heads(model_path if model_path.is_dir() else model_path.parent)
    if found is None:
        raise UserError(
            f"no Medusa heads beside {model_path}: name them with --medusa, or pass --medusa none "
            "to decode without"
        )
    return found


def _default_tree(dtype: str, heads: MedusaConfig | None) -> str:
    tree = _DEFAULT_TREES.get((jax.default_backend(), dtype), _DEFAULT_TREE_ELSEWHERE)
    needed = load_tree(tree).max_depth
    available = heads.num_heads if heads else 0
    return tree if needed <= available else f"chain:{available}"
