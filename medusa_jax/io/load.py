"""One call that loads a model with its heads and its default tree."""

import dataclasses
import re
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
from medusa_jax.io.model import LoadedModel, load_model, model_config
from medusa_jax.key_heads import decoding_config, with_repeated_heads
from medusa_jax.mesh import parse_mesh
from medusa_jax.model import AUTO, MedusaLM
from medusa_jax.nn.quantize import KINDS, int8_matrices
from medusa_jax.tree.presets import load_any_tree
from medusa_jax.tuning.measured import Measured

SHIPPED_HEADS = Path(__file__).parents[1] / "data" / "heads" / "smollm2-135m-instruct"
DTYPES = ("float32", "bfloat16", "float16")
_BFLOAT16_SINCE = 8.0  # compute capability of NVIDIA's GPUs


def default_dtype(measured: Measured, device: Any) -> str:
    """The dtype that a model is computed in unless somebody says otherwise.

    On a CPU, what `infer.tune` found to be faster there, else float32: some CPUs compute bfloat16
    several times slower, and in float32 every tree gives the text of plain decoding, token for
    token. Elsewhere bfloat16, or float16 on GPUs that have no bfloat16.

    Args:
      measured: what is known of the model on this machine.
      device: a `jax.Device`.
    """
    if device.platform == "cpu":
        return measured.fastest or "float32"
    # A CUDA device has it as text, such as "7.5"; one of ROCm, "gfx90a", has bfloat16.
    capability = str(getattr(device, "compute_capability", ""))
    is_old = re.fullmatch(r"\d+\.\d+", capability) and float(capability) < _BFLOAT16_SINCE
    return "float16" if is_old else "bfloat16"


def check_dtype(dtype: str | None, platform: str) -> None:
    """Raises UserError unless it is one of `DTYPES` (None: the default), with kernels there."""
    if dtype not in (None, *DTYPES):
        raise UserError(f"dtype is {dtype!r}: choose from {', '.join(DTYPES)}")
    if platform == "tpu" and dtype == "float16":
        raise UserError("dtype float16 is for GPUs without bfloat16: choose bfloat16 on a TPU")


def load(
    model: str | None = None,
    medusa: str | None = None,
    *,
    dtype: str | None = None,
    tree: str | None = None,
    mesh: jax.sharding.Mesh | str | None = None,
    quantize: str = "none",
) -> MedusaLM:
    """Loads a model and its Medusa heads.

    A model without heads decodes plainly; a warning says so unless `medusa` is "none".

    Args:
      model: Hugging Face folder, hub id or GGUF file; default: SmolLM2-135M-Instruct.
      medusa: folder, file or hub id with heads; "none": plain autoregressive decoding; default:
        heads found beside the model, or those shipped for the default model.
      dtype: "float32", "bfloat16" or "float16"; default: see `default_dtype`.
      tree: "auto", the default: what fits the machine, batch and context, chosen while decoding;
        or a preset, file, "chain:K" or "dynamic:N" (`medusa_jax.tree.presets.load_any_tree`).
      mesh: devices to spread the parameters and the cache over, as text ("tensor=4", see
        `medusa_jax.mesh.parse_mesh`) or from `make_mesh`; default: all on the default device.
      quantize: "none", or "int8": all matrices in 8 bits with a scale per output, still computed in
        `dtype`.

    Raises:
      UserError: something is missing, cannot be read or does not fit together.
    """
    if quantize not in KINDS:
        raise UserError(f"quantize is {quantize!r}: choose from {', '.join(KINDS)}")
    mesh = parse_mesh(mesh) if isinstance(mesh, str) else mesh
    check_dtype(dtype, _device(mesh).platform)
    # A tree that does not exist is refused before anything is downloaded or read.
    wanted = AUTO if tree is None or tree == AUTO else load_any_tree(tree)
    path, heads = find(model, medusa)
    decoding_config(model_config(path), mesh)  # a mesh that does not fit is refused as early
    measured = _measured(path, find(model, None if medusa == "none" else medusa)[1], mesh)
    dtype = dtype or default_dtype(measured, _device(mesh))
    base = load_model(str(path), jnp.dtype(dtype), mesh, quantize)
    if heads is None and medusa is None:
        warnings.warn(
            f"no Medusa heads beside {base.path}: decoding plainly, one token per step "
            "(name heads with medusa=, or pass medusa='none' to leave this out)",
            stacklevel=2,
        )
    lm = for_decoding(with_heads(base, heads, dtype, mesh), mesh, quantize)
    if mesh is not None or quantize != "none":
        measured = Measured(measured.acceptance)  # the times are those of another step
    return dataclasses.replace(lm, measured=measured).with_tree(wanted)


def for_decoding(lm: MedusaLM, mesh: jax.sharding.Mesh | None, quantize: str) -> MedusaLM:
    """The same model as it decodes best: key heads for every device, heads in 8 bits.

    Args:
      lm: on the mesh; its backbone may be quantised already.
      mesh: see `medusa_jax.key_heads.decoding_config`.
      quantize: "none" or "int8".

    Raises:
      UserError: "tensor" does not divide the model's heads.
    """
    params, heads = lm.params, lm.heads_params
    if quantize == "int8":
        params, heads = int8_matrices(params), int8_matrices(heads)
    config, params = with_repeated_heads(params, lm.config, mesh)
    return dataclasses.replace(lm, config=config, params=params, heads_params=heads)


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
      dtype: of the backbone, see `load`.
      mesh: where it lies.
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
