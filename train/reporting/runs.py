"""The runs that a report is about: their names, folders, settings and exports."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from medusa_jax.errors import UserError
from medusa_jax.io.heads.files import heads_in_model
from medusa_jax.io.hub import BACKBONE
from train.folder import run_path
from train.run_files import read_run
from train.settings import Settings

BASE = "base"  # the model that all runs started from


@dataclasses.dataclass(frozen=True)
class Runs:
    """A run, or several that differ in their seeds.

    Attributes:
      name: in the report.
      folders: working folders.
      settings: of each.
      exports: model and heads of each; None: the default model.
    """

    name: str
    folders: tuple[Path, ...]
    settings: tuple[Settings, ...]
    exports: tuple[tuple[str | None, str], ...]


def parse_runs(texts: Sequence[str]) -> list[Runs]:
    """Reads DIR, NAME=DIR or NAME=DIR1+DIR2+...

    Raises:
      UserError: a folder holds no run or no export, names are missing or not different, or runs of
        one name differ in more than their seeds.
    """
    runs = [_runs(text) for text in texts]
    if len({BASE, *(one.name for one in runs)}) <= len(runs):
        raise UserError(
            f"--runs: they need different names, none of them {BASE}: say NAME=DIR where their "
            "folders have the same"
        )
    return runs


def _runs(text: str) -> Runs:
    name, equals, rest = text.partition("=")
    folders = tuple(_local(name) for name in (rest if equals else text).split("+"))
    if not equals and "+" in text:
        raise UserError(f"--runs: {text} needs a name: NAME={text}")
    settings = tuple(read_run(folder)[0] for folder in folders)
    _check_seeds(text, settings)
    exports = tuple(map(_export, folders, settings))
    return Runs(name if equals else folders[0].name, folders, settings, exports)


def _local(name: str) -> Path:
    path = run_path(name)
    if not isinstance(path, Path):
        raise UserError(f"--runs: {name} is in a bucket: download it and name the local folder")
    return path


def _check_seeds(text: str, settings: Sequence[Settings]) -> None:
    """Checks that runs of one name differ in seeds, perhaps in heads to start from, and no more."""
    first = dataclasses.asdict(settings[0])
    for other in map(dataclasses.asdict, settings[1:]):
        for key in first:
            if key not in ("seed", "medusa") and first[key] != other[key]:
                raise UserError(
                    f"--runs: {text} differ in config.{key} ({first[key]}, {other[key]}): name "
                    "together only what differs in config.seed"
                )
    if len({(own.seed, own.medusa) for own in settings}) < len(settings):
        raise UserError(f"--runs: {text} has the same run twice: give it another config.seed")


def _export(folder: Path, settings: Settings) -> tuple[str | None, str]:
    """Model and heads; the model may be the one that the run started from."""
    export = folder / "export"
    if not export.is_dir():
        raise UserError(f"{export} is missing: finish the run, or use python -m train.export")
    if (export / BACKBONE).is_dir():
        return str(export / BACKBONE), str(export)
    return str(export) if heads_in_model(export) else settings.model, str(export)


def base_model(runs: Sequence[Runs]) -> str | None:
    """The model that all runs started from.

    Raises:
      UserError: there are several.
    """
    models = {own.model for one in runs for own in one.settings}
    if len(models) > 1:
        raise UserError(f"the runs started from different models ({', '.join(map(str, models))})")
    return models.pop()
