"""One call that loads a model with its heads and its default tree."""

import dataclasses
import warnings
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from medusa_jax.errors import UserError
from medusa_jax.io import default_model
from medusa_jax.io.heads import load as head_files
from medusa_jax.io.hub import resolve
from medusa_jax.io.measurements import read_measured
from medusa_jax.io.model import LoadedModel, load_model
from medusa_jax.model import AUTO, MedusaLM
from medusa_jax.tree.build import build_tree
from medusa_jax.tree.presets import load_any_tree
from medusa_jax.tuning.measured import Measured

SHIPPED_HEADS = Path(__file__).parents[1] / "data" / "heads" / "smollm2-135m-instruct"
DTYPES = ("float32", "bfloat16")


def default_dtype(measured: Measured, platform: str) -> str:
    """On a CPU what `infer.tune` found to be faster there, else float32; bfloat16 elsewhere.

    Without a measurement a CPU gets float32: some compute bfloat16 several times slower, and in
    float32 every tree gives the text of plain decoding, token for token.
    """
    return (measured.fastest or "float32") if platform == "cpu" else "bfloat16"


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
      dtype: "float32" or "bfloat16"; default: see `default_dtype`.
      tree: "auto", the default: what fits the machine, batch and context, chosen while decoding;
        or a preset, file, "chain:K" or "dynamic:N" (`medusa_jax.tree.presets.load_any_tree`).
      mesh: devices to spread the parameters over, see `medusa_jax.sharding.make_mesh`; default:
        all on the default device.

    Raises:
      UserError: anything missing, unreadable or that does not fit together.
    """
    if dtype not in (None, *DTYPES):
        raise UserError(f"dtype is {dtype!r}: choose float32 or bfloat16")
    # A tree that does not exist is refused before anything is downloaded or read.
    wanted = AUTO if tree is None or tree == AUTO else load_any_tree(tree)
    path, heads = find(model, medusa)
    measured = _measured(path, find(model, None if medusa == "none" else medusa)[1], mesh)
    dtype = dtype or default_dtype(measured, _device(mesh).platform)
    base = load_model(str(path), jnp.dtype(dtype), mesh)
    if heads is None and medusa is None:
        warnings.warn(
            f"no Medusa heads beside {base.path}: decoding plainly, one token per step "
            "(name heads with medusa=, or pass medusa='none' to leave this out)",
            stacklevel=2,
        )
    lm = with_heads(base, heads, dtype, mesh)
    return dataclasses.replace(lm, measured=measured).with_tree(wanted)


def find(model: str | None, medusa: str | None) -> tuple[Path, Path | None]:
    """Where a model and its heads are, downloaded if need be; see `load` for the arguments.

    Raises:
      UserError: they are nowhere.
    """
    if model is None:
        return default_model.default_model_path(), _heads_path(medusa, None)
    path = resolve(model)
    return path, _heads_path(medusa, path)


def _device(mesh: jax.sharding.Mesh | None) -> Any:
    return jax.devices()[0] if mesh is None else mesh.devices.flat[0]


def _measured(path: Path, heads: Path | None, mesh: jax.sharding.Mesh | None) -> Measured:
    """What is known. Processes that share a model may have measured differently: nothing."""
    if heads is None or (mesh is not None and mesh.is_multi_process):
        return Measured()
    return read_measured(path, heads, _device(mesh))


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
