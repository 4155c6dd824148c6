"""One call that loads a model with its heads and its default tree."""

import warnings
from pathlib import Path

import jax
import jax.numpy as jnp

from medusa_jax.errors import UserError
from medusa_jax.io import default_model
from medusa_jax.io.heads import load as head_files
from medusa_jax.io.model import LoadedModel, load_model
from medusa_jax.model import MedusaLM
from medusa_jax.tree.build import Tree, build_tree
from medusa_jax.tree.presets import load_any_tree, load_fitting_tree

SHIPPED_HEADS = Path(__file__).parents[1] / "data" / "heads" / "smollm2-135m-instruct"
# Measured, docs/benchmarks.md: on an accelerator a tree of tokens costs little more than one, on a
# CPU in float32 no tree is as fast as plain decoding, in bfloat16 the second token is nearly free.
_DEFAULT_TREES = {("cpu", "float32"): "chain:0", ("cpu", "bfloat16"): "mc_sim_7b_63:2"}
_DEFAULT_TREE_ELSEWHERE = "mc_sim_7b_63"


def default_dtype(mesh: jax.sharding.Mesh | None = None) -> str:
    """float32 on a CPU, which computes nothing faster in bfloat16; bfloat16 elsewhere."""
    device = jax.devices()[0] if mesh is None else mesh.devices.flat[0]
    return "float32" if device.platform == "cpu" else "bfloat16"


def load(
    model: str | None = None,
    medusa: str | None = None,
    *,
    dtype: str | None = None,
    tree: str | None = None,
    mesh: jax.sharding.Mesh | None = None,
) -> MedusaLM:
    """Loads a model and its Medusa heads.

    A model without heads decodes plainly; a warning says so unless `medusa` is "none".

    Args:
      model: Hugging Face folder, hub id or GGUF file; default: SmolLM2-135M-Instruct.
      medusa: folder, file or hub id with heads; "none": plain autoregressive decoding; default:
        heads found beside the model, or the shipped ones for the default model.
      dtype: "float32" or "bfloat16"; default: `default_dtype()`.
      tree: preset, file, "chain:K" or "dynamic:N" (`medusa_jax.tree.presets.load_any_tree`);
        default: what was measured to be fastest on this kind of device; on a CPU in float32 that is
        "chain:0".
      mesh: devices to spread the parameters over, see `medusa_jax.sharding.make_mesh`; default:
        all on the default device.

    Raises:
      UserError: anything missing, unreadable or that does not fit together.
    """
    dtype = dtype or default_dtype(mesh)
    if dtype not in ("float32", "bfloat16"):
        raise UserError(f"dtype is {dtype!r}: choose float32 or bfloat16")
    wanted = None if tree is None else load_any_tree(tree)  # before anything is downloaded or read
    source = str(default_model.default_model_path()) if model is None else model
    base = load_model(source, jnp.dtype(dtype), mesh)
    heads = _heads_path(medusa, None if model is None else base.path)
    if heads is None and medusa is None:
        warnings.warn(
            f"no Medusa heads beside {base.path}: decoding plainly, one token per step "
            "(name heads with medusa=, or pass medusa='none' to leave this out)",
            stacklevel=2,
        )
    lm = with_heads(base, heads, dtype, mesh)
    return lm.with_tree(_default_tree(lm) if wanted is None else wanted)


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
        tree=build_tree([]),
    )


def _heads_path(medusa: str | None, model_path: Path | None) -> Path | None:
    """Where the heads are; None: decode without. `model_path` is None for the default model."""
    if medusa == "none":
        return None
    if medusa is not None:
        return head_files.resolve_heads(medusa)
    if model_path is None:
        return SHIPPED_HEADS
    return head_files.find_heads(model_path if model_path.is_dir() else model_path.parent)


def _default_tree(lm: MedusaLM) -> str | Tree:
    """The measured default, or as much of it as the heads can fill."""
    tree = _DEFAULT_TREES.get((lm.platform, lm.dtype), _DEFAULT_TREE_ELSEWHERE)
    heads = lm.heads_config
    if heads is None:
        return build_tree([])
    return load_fitting_tree(tree, heads.num_heads, heads.vocab_size)
