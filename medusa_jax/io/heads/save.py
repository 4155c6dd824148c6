"""Writes Medusa heads in the formats that other software reads."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np

from medusa_jax.config import MedusaConfig
from medusa_jax.errors import UserError
from medusa_jax.io.atomic import write_json
from medusa_jax.io.heads.files import HEADS_FILES
from medusa_jax.io.heads.formats import (
    MODEL_PREFIXES,
    PROJECTION,
    ExportFormat,
    HeadsFormat,
    head_records,
    tensor_name,
)
from medusa_jax.io.tensor_export import save_tensors
from medusa_jax.nn.layers import draft_rows


def save_heads(
    folder: Path | str,
    config: MedusaConfig,
    params: dict[str, Any],
    *,
    format: HeadsFormat,
    base_model: str,
    vocab_size: int,
    lm_head: Any = None,
) -> None:
    """Writes heads and their `config.json`; `load_heads` reads back the same bits.

    A and vLLM have no heads without projections, so heads that share the LM head get its rows:
    A one copy per head, vLLM a single one with `original_lm_head`. They are then read as heads
    with projections of their own, which compute the same.

    Args:
      folder: created when missing; must not hold another model.
      config: of the heads.
      params: in the layout of `MedusaHeads`; every array is stored in the dtype that it has.
      format: "A" (TGI, TensorRT-LLM; the original code wants it as `.pt`), "C" (TGI) or "vllm".
      base_model: name or path of the model that the heads belong to.
      vocab_size: V of that model.
      lm_head: [V, D], the model's LM head; only for "A" and "vllm" of heads that share it.

    Raises:
      UserError: the format cannot hold these heads, `lm_head` is needed and missing, the folder
        holds something else, or it cannot be written.
    """
    folder = Path(folder)
    tensors = head_tensors(config, params, format, lm_head)
    _check_folder(folder, format)
    settings = _settings(config, format, base_model, vocab_size)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write heads to {folder}: {error}") from error
    name = "model.safetensors" if format == "vllm" else HEADS_FILES[0]
    save_tensors(folder / name, tensors)
    write_json(folder / "config.json", settings)


def head_tensors(
    config: MedusaConfig, params: dict[str, Any], format: ExportFormat, lm_head: Any = None
) -> dict[str, np.ndarray]:
    """The heads under the names that a format gives them.

    Args:
      config: of the heads.
      params: in the layout of `MedusaHeads`; dtypes stay as they are.
      format: see `medusa_jax.io.heads.formats`.
      lm_head: [V, D], the model's LM head; needed by all but "C" for heads that share it.

    Raises:
      UserError: the format cannot hold these heads, or `lm_head` is needed and missing.
    """
    check_format(config, format)
    if format != "C" and not config.own_projection and lm_head is None:
        raise UserError(
            f"format {format} needs a projection and these heads share the LM head: give the "
            "model's LM head, or save as C"
        )
    tensors: dict[str, np.ndarray] = {}
    stacks = _stacks(config, params, format, lm_head)
    # Other formats than C hold a projection whether the heads have one or not.
    held = config if format == "C" else dataclasses.replace(config, own_projection=True)
    for path, record in head_records(held).items():
        for index, tensor in stacks.get(path, {}).items():
            name = tensor_name(record, index, config, format)
            tensors[name] = np.ascontiguousarray(tensor)
    if "token_map" in params:
        # torch indexes by int64; the extended format C is only our own.
        kind = np.int64 if format == "vllm" else np.int32
        tensors["token_map"] = np.asarray(params["token_map"]).astype(kind)
    if format == "B":
        return {MODEL_PREFIXES[0] + name: tensor for name, tensor in tensors.items()}
    return tensors


def check_format(config: MedusaConfig, format: ExportFormat) -> None:
    """Makes sure that a format can hold heads of this kind.

    Raises:
      UserError: it cannot; says which can.
    """
    if config.num_layers == 0 and not config.own_projection:
        raise UserError("these heads have neither blocks nor projections: nothing to save")
    if config.sees_root:
        _check_conditioned(config, format)
    able = ["vllm"]
    if not config.draft_vocab:
        able.append("A")
    if not config.own_projection:
        able.append("C")
    if format.replace("B", "A") not in able:  # B has the tensors of A
        what = "own projections" if format == "C" else "a draft vocabulary (token_map)"
        raise UserError(
            f"format {format} cannot hold heads with {what}: save as {' or '.join(able)}"
        )


def _check_conditioned(config: MedusaConfig, format: ExportFormat) -> None:
    kind, own = f"{config.conditioning}-conditioned heads", "projections of their own"
    if config.own_projection and config.draft_vocab:
        raise UserError(f"no format can hold {kind} with {own} and a draft vocabulary")
    able = "A" if config.own_projection else "C"
    if format != able:
        which = f"with {own}" if config.own_projection else "that share the LM head"
        raise UserError(
            f"format {format} cannot hold {kind} {which}: only {able} can, as our extension of it"
        )


def _check_folder(folder: Path, format: HeadsFormat) -> None:
    try:
        existing = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        existing = {}
    if "num_attention_heads" in existing:
        raise UserError(f"{folder} holds a model: save the heads to a folder of their own")
    others = [name for name in HEADS_FILES if (folder / name).exists()]
    if format == "vllm" and others:
        raise UserError(f"{folder} holds other heads ({others[0]}): save to an empty folder")


def _stacks(
    config: MedusaConfig, params: dict[str, Any], format: str, lm_head: Any
) -> dict[tuple[str, ...], dict[tuple[int, ...], np.ndarray]]:
    """Every tensor of the file by the path of its parameter and its index: head and layer."""
    stacks: dict[tuple[str, ...], dict[tuple[int, ...], np.ndarray]] = {}
    for path, record in head_records(config).items():
        stacked = np.asarray(params[path[0]][path[1]])
        num_stacked = sum(axis in ("medusa", "layer", "pair") for axis in record.axes)
        indices = np.ndindex(*stacked.shape[:num_stacked])
        stacks[path] = {index: stacked[index] for index in indices}
    if format != "C" and not config.own_projection:
        rows = np.asarray(draft_rows(lm_head, params.get("token_map")))
        # vLLM reads one for all (`original_lm_head`).
        stacks[PROJECTION] = {
            (h,): rows for h in range(1 if format == "vllm" else config.num_heads)
        }
    return stacks


def _settings(
    config: MedusaConfig, format: HeadsFormat, base_model: str, vocab_size: int
) -> dict[str, Any]:
    settings: dict[str, Any] = {"base_model_name_or_path": base_model}
    if format == "vllm":
        return settings | {
            "model_type": "medusa",
            "architectures": ["MedusaModel"],
            "hidden_size": config.hidden_size,
            "vocab_size": vocab_size,
            "truncated_vocab_size": config.vocab_size,
            "num_heads": config.num_heads,
            "num_hidden_layers": config.num_layers,
            "medusa_fc_bias": config.bias,
            "original_lm_head": not config.own_projection,
        }
    settings |= {"medusa_num_heads": config.num_heads, "medusa_num_layers": config.num_layers}
    if format == "C":
        # No tensor of this format tells the vocabulary, so the configuration has to.
        settings |= {"version": "2", "vocab_size": vocab_size}
    return settings
