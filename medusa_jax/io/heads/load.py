"""Loads Medusa heads from every published checkpoint format (see `medusa_jax.io.heads.formats`)."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from flax.traverse_util import unflatten_dict

from medusa_jax.config import MedusaConfig
from medusa_jax.errors import UserError
from medusa_jax.io import hub
from medusa_jax.io.buffers import aligned_buffer
from medusa_jax.io.heads.files import (
    HEADS_FILES,
    StoredTensor,
    has_heads,
    heads_in_model,
    open_heads,
    read_integers,
)
from medusa_jax.io.heads.formats import (
    BIAS,
    MARKOV_OUT,
    PROJECTION,
    HeadKeys,
    head_records,
    parse_keys,
)
from medusa_jax.io.json_file import read_json
from medusa_jax.io.placement import place_params
from medusa_jax.nn.params import conditioning_of
from medusa_jax.paths import looking_at, user_path


def resolve_heads(reference: str) -> Path:
    """Turns a user's reference to heads into a path on this machine.

    Args:
      reference: an existing folder or file, or a hub id (see `medusa_jax.io.hub.resolve`).

    Raises:
      UserError: there is no such path or repository.
    """
    path = user_path(reference)
    with looking_at(reference):
        if reference and path.exists():
            return path
    return hub.download(reference, backbone=False)


def find_heads(model_folder: Path) -> Path | None:
    """Looks for heads that came with a model.

    Args:
      model_folder: folder of the model, or the folder that a GGUF file lies in.

    Returns:
      What to give to `load_heads`: a `medusa_lm_head.*` file in the folder, the folder itself when
      the model's own files hold heads (format B), or the folder of heads that this backbone
      lies in (see `hub.BACKBONE`); None when there are none.

    Raises:
      UserError: `model.safetensors` or an index is damaged.
    """
    folder = Path(model_folder).absolute()
    with looking_at(folder):
        for name in HEADS_FILES:
            if (folder / name).is_file():
                return folder / name
    if heads_in_model(folder):
        return folder
    return folder.parent if folder.name == hub.BACKBONE and has_heads(folder.parent) else None


def load_heads(
    reference: Path | str, *, hidden_size: int, vocab_size: int, dtype: Any, mesh: Any = None
) -> tuple[MedusaConfig, dict[str, Any]]:
    """Loads heads of format A, B, C or vLLM.

    The numbers of heads and layers come from the tensors: published configurations are wrong.
    The only settings read from a `config.json` beside the file are `original_lm_head` (vLLM: one
    projection for all heads) and, where no tensor shows it, `vocab_size`. vLLM's `logit_scale`
    is ignored: it never changes which tokens are the most probable.

    Args:
      reference: a folder, or a `.safetensors`, `.pt` or `.bin` file.
      hidden_size: D of the model that the heads are to serve.
      vocab_size: V of that model.
      dtype: of the parameters.
      mesh: where to put them, by `medusa_jax.sharding.param_shardings`; None: the default device.

    Returns:
      The configuration, and the parameters in the layout of `MedusaHeads`:
      {"blocks": {"weight": [M, L, D, D], "bias": [M, L, D]}, "projection": {"weight": [M, Vd, D]},
      "token_map": int32 [Vd]} and what conditioning adds; all but the blocks' weight is there only
      if the heads have it. One projection for all heads is repeated M times.

    Raises:
      UserError: no heads there, heads of another hidden size or vocabulary, incomplete heads, a
        damaged file, an unsupported dtype, or a torch file without torch.
    """
    path = Path(reference)
    tensors = open_heads(path)
    config, keys, token_map = _parsed(path, tensors, hidden_size, vocab_size)
    params = _read_params(config, keys, tensors, token_map, np.dtype(dtype))
    return config, place_params(params, mesh)


def heads_config(reference: Path | str, *, hidden_size: int, vocab_size: int) -> MedusaConfig:
    """The configuration that `load_heads` gives, without the parameters."""
    path = Path(reference)
    return _parsed(path, open_heads(path), hidden_size, vocab_size)[0]


def _parsed(
    path: Path, tensors: Mapping[str, StoredTensor], hidden_size: int, vocab_size: int
) -> tuple[MedusaConfig, HeadKeys, np.ndarray | None]:
    """What a file's tensors are: the configuration, their names, and the draft vocabulary."""
    settings = _settings(path)
    one_projection = settings.get("original_lm_head") is True
    try:
        keys = parse_keys(tensors, one_projection=one_projection)
        config = _whole_config(keys, tensors, hidden_size, vocab_size)
        _check_shapes(config, keys, tensors)
        token_map = _token_map(keys, tensors, vocab_size)
        _check_vocab(keys, tensors, settings, vocab_size, token_map)
    except UserError as error:
        raise UserError(f"cannot use the heads in {path}: {error}") from None
    if token_map is not None:
        config = dataclasses.replace(config, vocab_size=len(token_map), draft_vocab=True)
    return config, keys, token_map


def _whole_config(
    keys: HeadKeys, tensors: Mapping[str, StoredTensor], hidden_size: int, vocab_size: int
) -> MedusaConfig:
    """The heads before their draft vocabulary is known."""
    markov_in = keys.names["markov_in", "weight"]
    modules = {module for (module, _), own in keys.names.items() if own}
    try:
        return MedusaConfig(
            num_heads=keys.num_heads,
            num_layers=keys.num_layers,
            hidden_size=hidden_size,
            vocab_size=vocab_size,
            bias=bool(keys.names[BIAS]),
            own_projection=bool(keys.names[PROJECTION]),
            conditioning=conditioning_of(modules),
            markov_rank=(*tensors[markov_in[()]].shape, 0)[0] if markov_in else 0,
        )
    except ValueError as error:
        raise UserError(f"{error}: the file is incomplete, download it again") from None


def _settings(path: Path) -> dict[str, Any]:
    file = (path if path.is_dir() else path.parent) / "config.json"
    return read_json(file) if file.is_file() else {}


def _check_shapes(
    config: MedusaConfig, keys: HeadKeys, tensors: Mapping[str, StoredTensor]
) -> None:
    """All but the number of tokens, which `_check_vocab` knows more about."""
    for path, record in head_records(config).items():
        of_tokens = record.axes[-2:-1] == ("vocab",)
        for index, name in keys.names[path].items():
            shape, wanted = tensors[name].shape, record.shape[len(index) :]
            is_wide = wanted[-1] == config.hidden_size
            if is_wide and len(shape) == len(wanted) and shape[-1] != config.hidden_size:
                raise UserError(
                    f"heads are for hidden size {shape[-1]}, the model has {config.hidden_size}: "
                    "take heads that were trained for this model"
                )
            if len(shape) != len(wanted) or shape[of_tokens:] != wanted[of_tokens:]:
                raise UserError(f"tensor {name} has shape {list(shape)}: download the file again")


def _token_map(
    keys: HeadKeys, tensors: Mapping[str, StoredTensor], vocab_size: int
) -> np.ndarray | None:
    if keys.token_map is None:
        return None
    token_map = read_integers(tensors[keys.token_map])
    if token_map.ndim != 1 or token_map.size == 0:
        raise UserError(f"token_map has shape {list(token_map.shape)} instead of [Vd]")
    if token_map.min() < 0 or token_map.max() >= vocab_size:
        raise UserError(
            f"token_map names tokens beyond the model's {vocab_size}: take heads that were trained "
            "for this model"
        )
    return token_map.astype(np.int32)


def _check_vocab(
    keys: HeadKeys,
    tensors: Mapping[str, StoredTensor],
    settings: Mapping[str, Any],
    vocab_size: int,
    token_map: np.ndarray | None,
) -> None:
    allowed = {vocab_size} if token_map is None else {vocab_size, len(token_map)}
    sizes = [tensors[name].shape[0] for name in keys.names[PROJECTION].values()]
    stated = settings.get("vocab_size")
    for size in sizes or [vocab_size if stated is None else stated]:
        if size not in allowed:
            raise UserError(
                f"heads are for a vocabulary of {size!r} tokens, the model has {vocab_size}: take "
                "heads that were trained for this model"
            )
    for name in keys.names[MARKOV_OUT].values():
        if tensors[name].shape[0] != (vocab_size if token_map is None else len(token_map)):
            raise UserError(f"tensor {name} is of another vocabulary: download the file again")


def _read_params(
    config: MedusaConfig,
    keys: HeadKeys,
    tensors: Mapping[str, StoredTensor],
    token_map: np.ndarray | None,
    dtype: np.dtype,
) -> dict[str, Any]:
    """Reads tensor after tensor straight into its place in the stacked arrays."""
    params: dict[tuple[str, ...], Any] = {}
    for path, record in head_records(config).items():
        if path == PROJECTION:
            params[path] = _read_projections(config, keys, tensors, token_map, dtype)
            continue
        stacked, _ = aligned_buffer(record.shape, dtype)
        if path == BIAS:
            stacked[:] = 0  # a bias that only some layers have is zero in the others
        for index, name in keys.names[path].items():
            stacked[index] = tensors[name].read(dtype)
        params[path] = stacked
    if token_map is not None:
        params[("token_map",)] = token_map
    return unflatten_dict(params)


def _read_projections(
    config: MedusaConfig,
    keys: HeadKeys,
    tensors: Mapping[str, StoredTensor],
    token_map: np.ndarray | None,
    dtype: np.dtype,
) -> np.ndarray:
    names = dict.fromkeys(keys.names[PROJECTION][head,] for head in range(config.num_heads))
    weight, _ = aligned_buffer((len(names), config.vocab_size, config.hidden_size), dtype)
    for row, name in enumerate(names):
        weight[row] = _read_rows(tensors[name], token_map, dtype)
    return np.broadcast_to(weight, (config.num_heads, *weight.shape[1:]))


def _read_rows(tensor: StoredTensor, token_map: np.ndarray | None, dtype: np.dtype) -> np.ndarray:
    rows = tensor.read(dtype)
    # As vLLM does: a file may keep all V rows beside its token_map.
    return rows if token_map is None or len(rows) == len(token_map) else rows[token_map]
