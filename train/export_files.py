"""From trained parameters to a folder that other software, and `infer.generate`, can load."""

import contextlib
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.tree_util import keystr, tree_map_with_path

from medusa_jax.config import MedusaConfig
from medusa_jax.errors import UserError
from medusa_jax.io.default_model import DEFAULT_MODEL_ID
from medusa_jax.io.heads.save import ExportFormat, HeadsFormat, check_format, save_heads
from medusa_jax.io.hf.model_export import save_model, to_dtype, to_host
from medusa_jax.io.hub import BACKBONE, resolve
from medusa_jax.io.model import LoadedModel
from medusa_jax.nn.llama import lm_head_weight
from medusa_jax.nn.lora import merge_lora
from medusa_jax.nn.params import heads_config_of
from medusa_jax.paths import looking_at, user_path
from train.distributed import together
from train.random_model import RANDOM_TINY, base_config, load_base
from train.settings import Settings


def export(
    folder: Path,
    *,
    format: ExportFormat,
    dtype: str,
    base: LoadedModel,
    base_name: str,
    params: dict[str, Any],
    lora_scale: float,
    address: str | None = None,
) -> None:
    """Writes heads, and also the backbone where the format contains it or nobody else has it.

    Where the format is of heads alone, a backbone that training changed, or that is random, goes
    into a folder of its own beside them, `backbone`; `medusa_jax.load` finds either from the other.

    Every process of a multi-process run has to call this; the first one writes. The folder appears
    complete or not at all.

    Args:
      folder: must not exist, or be empty.
      format: see `train.export`.
      dtype: "float32", "bfloat16" or "float16", of every weight.
      base: the model that was trained; weights and tokenizer matter only where they are written.
      base_name: its name or path.
      params: {"heads"} and, if there, "lora", "backbone" (trained as a whole) and "token_map".
      lora_scale: alpha / r.
      address: where the folder will be uploaded to; the heads name their backbone by it.

    Raises:
      UserError: the format cannot hold these heads, something is there already, a weight is beyond
        the range of dtype, or writing failed.
    """
    folder = Path(folder).absolute()
    heads = params["heads"] | {k: params[k] for k in ("token_map",) if k in params}
    config = heads_config_of(heads, base.config.vocab_size)
    check_format(config, format)
    together(check_empty, folder)  # before the first process writes, which others may see
    backbone = _backbone(params, base, lora_scale)
    is_ours = backbone is not base.params or base_name == RANDOM_TINY
    heads = _on_host(heads, dtype)
    with _appearing(folder) as scratch:
        if format == "B":
            save_model(scratch, base, backbone, dtype=dtype, name=base_name, heads=(config, heads))
            return
        if is_ours:
            _make(scratch / BACKBONE)
            save_model(scratch / BACKBONE, base, backbone, dtype=dtype, name=base_name)
            base_name = f"{address or folder}/{BACKBONE}"
        _save_heads(scratch, config, heads, format, base, base_name, backbone, dtype)


def export_run(
    folder: Path,
    settings: Settings,
    params: dict[str, Any],
    *,
    token_map: Any = None,
    mesh: jax.sharding.Mesh | None = None,
    format: ExportFormat | None = None,
    dtype: str | None = None,
    address: str | None = None,
) -> None:
    """Exports the trained parameters of a run, whose model is loaded again.

    Args:
      folder: must not exist, or be empty.
      settings: of the run.
      params: the trained parameters: state["params"].
      token_map: int [Vd], the heads' draft vocabulary, if they have one.
      mesh: to load the model on; default: the default device.
      format: default: that of the settings.
      dtype: default: that of the settings.
      address: see `export`.

    Raises:
      UserError: see `export`; or the run was made without a format and none is given.
    """
    if format is None:
        if settings.export_format == "none":
            raise UserError("the run's config.export_format is none: choose one with --format")
        format = settings.export_format
    dtype = dtype or settings.export_dtype
    check_empty(Path(folder))
    base = _base(settings.model, params, format, np.dtype(dtype), mesh)
    if token_map is not None:
        params = params | {"token_map": token_map}
    export(
        folder,
        format=format,
        dtype=dtype,
        base=base,
        base_name=_base_name(settings.model),
        params=params,
        lora_scale=settings.lora_scale,
        address=address,
    )


def _base_name(model: str | None) -> str:
    """What other software finds the model by, wherever it is started."""
    if model is None:
        return DEFAULT_MODEL_ID
    if not user_path(model).exists():
        return model
    return str(resolve(model).absolute())  # of a run's export, its backbone


def _base(
    model: str | None,
    params: dict[str, Any],
    format: ExportFormat,
    dtype: np.dtype,
    mesh: jax.sharding.Mesh | None,
) -> LoadedModel:
    """The model that was trained, without weights where none of them is written."""
    shares_lm_head = format != "C" and "projection" not in params["heads"]
    is_trained = not params.keys().isdisjoint(("lora", "backbone"))
    if format == "B" or shares_lm_head or is_trained or model == RANDOM_TINY:
        return load_base(model, dtype, mesh)
    return LoadedModel(base_config(model), {}, None, (), Path())


def check_empty(folder: Path) -> None:
    """Refuses a folder that an export would write over.

    Raises:
      UserError: something is there.
    """
    with looking_at(str(folder)):
        if folder.is_dir() and not folder.is_symlink() and not any(folder.iterdir()):
            return
        is_there = folder.exists() or folder.is_symlink()
    if is_there:
        raise UserError(f"{folder} exists: name a new folder, or remove it first")


def _save_heads(
    folder: Path,
    config: MedusaConfig,
    heads: dict[str, Any],
    format: HeadsFormat,
    base: LoadedModel,
    base_name: str,
    backbone: dict[str, Any],
    dtype: str,
) -> None:
    lm_head = None
    if format != "C" and not config.own_projection:
        lm_head = to_dtype("lm_head", to_host(lm_head_weight(backbone)), np.dtype(dtype))
    if jax.process_index() == 0:
        save_heads(
            folder,
            config,
            heads,
            format=format,
            base_model=base_name,
            vocab_size=base.config.vocab_size,
            lm_head=lm_head,
        )


def _backbone(params: dict[str, Any], base: LoadedModel, lora_scale: float) -> dict[str, Any]:
    """`base.params` itself where training left it as it was."""
    backbone = params.get("backbone", base.params)
    return merge_lora(backbone, params["lora"], lora_scale) if params.get("lora") else backbone


def _on_host(heads: dict[str, Any], dtype: str) -> dict[str, Any]:
    return tree_map_with_path(
        lambda path, x: to_dtype(f"heads{keystr(path)}", to_host(x), np.dtype(dtype)), heads
    )


@contextlib.contextmanager
def _appearing(folder: Path) -> Iterator[Path]:
    """A scratch folder that becomes `folder` at the end, unless the block fails."""
    # No process of another machine has the same one, which a process number would allow.
    scratch = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.tmp")
    try:
        _make(scratch)
        yield scratch
        _publish(scratch, folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _make(folder: Path) -> None:
    if jax.process_index():
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write to {folder.parent} ({error.strerror})") from None


def _publish(scratch: Path, folder: Path) -> None:
    if jax.process_index():
        return
    try:
        scratch.replace(folder)  # fails where somebody has filled the folder meanwhile
    except OSError as error:
        raise UserError(f"cannot write {folder} ({error.strerror}): name a new folder") from None
