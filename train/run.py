"""One training run from settings to exported heads."""

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from medusa_jax import MedusaLM
from medusa_jax.config import LlamaConfig
from medusa_jax.errors import UserError
from medusa_jax.io.heads.save import check_format
from medusa_jax.mesh import make_mesh
from medusa_jax.model import check_tree
from medusa_jax.tree.build import Tree
from medusa_jax.tree.presets import load_tree
from train.checkpoints import Checkpoints, has_steps
from train.console import closing_lines
from train.data import inputs
from train.data.epochs import describe_length, steps_per_epoch, with_steps
from train.data.pipeline import Splits, load_data
from train.data.sources import check_source
from train.data.tokens import check_token_ids
from train.distributed import check_shared, is_first_process, together
from train.export_files import export_run
from train.fingerprint import check_same
from train.folder import AnyPath, Folder
from train.loop import Loop
from train.random_model import load_lm
from train.run_files import write_run
from train.settings import Settings
from train.setup import build
from train.weights import weights_digest

# What may change when a run is resumed; everything else decides what it computes. The layout in
# memory changes only how sums are rounded and, with dropout, which random numbers it draws.
_FREE = (
    "mesh",
    "accumulate",
    "remat",
    "log_every",
    "eval_every",
    "save_every",
    "keep",
    "profile",
    "export_format",
    "export_dtype",
)


def train(settings: Settings, workdir: str | AnyPath) -> None:
    """Trains as configured, from the last checkpoint in the folder on, and exports the result.

    Args:
      settings: of the run, the same on every process.
      workdir: a folder that all processes share, or gs://BUCKET/PATH.

    Raises:
      UserError: something is wrong with settings, model, data, devices or folder; or the loss is
        not finite any more.
      KeyboardInterrupt: Ctrl-C; the state has been saved.
    """
    with Folder(workdir) as folder:
        check_same({"config": dataclasses.asdict(settings)})
        mesh = make_mesh(**dataclasses.asdict(settings.mesh))
        check_batch(settings, mesh)
        check_processes(settings, folder)
        check_shared(folder.path)
        together(check_source, settings.data)
        _train(settings, folder, mesh)


def _train(settings: Settings, folder: Folder, mesh: Mesh) -> None:
    dtypes = {"dtype": params_dtype(settings), "heads_dtype": "float32"}
    lm = together(load_lm, settings.model, settings.medusa, **dtypes, mesh=mesh)
    check_context(settings, lm.config)
    splits = together(_load_data, settings, lm)
    tree = together(load_tree, settings.tree, settings.num_heads)
    token_map = _token_map(settings, lm, splits)
    contents = _contents(lm, splits, tree, token_map)
    check_same(contents)
    per_epoch = steps_per_epoch(settings, splits.train)
    sized = with_steps(settings, per_epoch)
    _say(describe_length(sized, per_epoch))
    experiment = build(sized, lm, mesh, token_map)
    check_tree(tree, experiment.heads)
    if settings.export_format != "none":
        check_format(experiment.heads, settings.export_format)
        _check_no_export(folder)
    with Checkpoints(
        folder.path,
        save_every=settings.save_every,
        keep=settings.keep,
        fingerprint=_fingerprint(settings) | contents,
    ) as checkpoints:
        if is_first_process():
            write_run(folder, settings, token_map, is_new=checkpoints.latest is None)
            folder.fetch("metrics.jsonl")
        if settings.hidden_states == "cached":
            data = inputs.cached(settings, splits, lm, folder.local, mesh)
        else:
            data = inputs.packed(settings, splits, mesh)
        del lm  # the experiment has what it needs: perhaps quantized, or a copy that is trained
        params = Loop(sized, experiment, data, tree, mesh, checkpoints, folder).run()
        closing = _closing(checkpoints, settings.tree)
    del experiment, data  # the export loads the model as it is, in its own dtype
    folder.upload()
    if params is None:
        _say(f"stopped and saved in {folder}: rerun the same command to resume")
        return
    for line in closing:
        _say(line)
    if settings.export_format != "none":
        _export(settings, params, token_map, mesh, folder)


def check_batch(settings: Settings, mesh: Mesh) -> None:
    """Every device along "data" and "fsdp" gets as many rows as the others."""
    devices = mesh.shape["data"] * mesh.shape["fsdp"]
    batch, accumulate = settings.batch_size, settings.accumulate
    if batch // accumulate % devices == 0:
        return
    parts = f" / config.accumulate={accumulate}" if accumulate > 1 else ""
    fits = [fewer for fewer in range(1, accumulate) if batch % (fewer * devices) == 0]
    hint = f"set config.batch_size to a multiple of {devices * accumulate}"
    if fits:
        hint = f"set config.accumulate={fits[-1]}"
    elif settings.mesh.data != 1:
        hint += ", or config.mesh.data to less"
    raise UserError(
        f"config.batch_size={batch}{parts} cannot be divided among {devices} devices "
        f"(config.mesh.data times fsdp): {hint}"
    )


def check_processes(settings: Settings, folder: Folder) -> None:
    """Refuses hidden states that processes would share in a folder that they do not share."""
    is_local = folder.local == folder.path
    if settings.hidden_states == "cached" and jax.process_count() > 1 and not is_local:
        raise UserError(
            "config.hidden_states=cached: several processes keep hidden states in a folder that "
            f"all of them map, and {folder} is none: name a --workdir on a disk that they share, "
            "or set config.hidden_states=streamed"
        )


def _load_data(settings: Settings, lm: MedusaLM) -> Splits:
    splits = load_data(
        settings.data,
        lm.tokenizer,
        seq_len=settings.seq_len,
        held_out=settings.held_out,
        data_errors=settings.data_errors,
        progress=is_first_process(),
    )
    check_token_ids(splits.train.tokens.token_N, lm.config.vocab_size)
    return splits


def check_context(settings: Settings, config: LlamaConfig) -> None:
    """Refuses rows that are longer than the model's context."""
    if settings.seq_len > config.max_position:
        raise UserError(
            f"config.seq_len={settings.seq_len} is longer than the model's context: set "
            f"config.seq_len={config.max_position} or less"
        )


def params_dtype(settings: Settings) -> str:
    """A backbone that is trained as a whole is kept in float32, a frozen one as it is computed."""
    whole = settings.objective == "medusa2" and not settings.lora_rank
    return "float32" if whole else settings.dtype


def _token_map(settings: Settings, lm: MedusaLM, splits: Splits) -> np.ndarray | None:
    """The draft vocabulary: that of the heads to start from, or the training labels'."""
    if lm.heads_params is not None and "token_map" in lm.heads_params:
        return np.asarray(lm.heads_params["token_map"])
    return inputs.draft_vocabulary(splits.train, lm.config.vocab_size, settings.draft_vocab)


def _contents(
    lm: MedusaLM, splits: Splits, tree: Tree, token_map: np.ndarray | None
) -> dict[str, str | None]:
    """What the names in the settings stand for, which may change while the names do not."""
    return {
        "content of data": splits.fingerprint,
        "tokens of data": splits.train.tokens.digest,
        "content of model": weights_digest(lm),
        "tree's content": _digest(tree.paths()),
        "draft_vocab's content": None if token_map is None else _digest(token_map.tolist()),
    }


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:16]


def _fingerprint(settings: Settings) -> dict[str, Any]:
    return {k: v for k, v in dataclasses.asdict(settings).items() if k not in _FREE}


def _check_no_export(folder: Folder) -> None:
    """Refuses a new run where an earlier one has left its export, which would pass for its own."""
    if not has_steps(folder.path) and _exported(folder):
        raise UserError(
            f"{folder} holds the export of an earlier run, but none of its checkpoints: move the "
            "export away, or choose another --workdir"
        )


def _exported(folder: Folder) -> bool:
    target = folder.path / "export"
    # An upload that was cut short lacks its last file; local folders appear whole.
    return (target if isinstance(target, Path) else target / "config.json").exists()


def _closing(checkpoints: Checkpoints, tree: str) -> list[str]:
    last, best = checkpoints.latest, checkpoints.best
    if last is None:
        return []
    metrics = {step: checkpoints.metrics(step) for step in (last, best) if step is not None}
    return closing_lines(last, best, metrics, tree)


def _export(
    settings: Settings,
    params: dict[str, Any],
    token_map: np.ndarray | None,
    mesh: Mesh,
    folder: Folder,
) -> None:
    target = folder.path / "export"
    if _exported(folder):
        _say(f"{target} is there already: `python -m train.export` writes another")
        return
    address = None if isinstance(target, Path) else str(target)
    scratch = folder.local / "export"
    export_run(scratch, settings, params, token_map=token_map, mesh=mesh, address=address)
    folder.upload("export")
    _say(f"exported to {target}")


def _say(text: str) -> None:
    if is_first_process():
        print(text)
