"""What people asked: the human turns of conversations, in an order that never changes."""

import hashlib
import re
import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medusa_jax.errors import UserError
from train.data import sharegpt

# ShareGPT's long conversations come in chunks, of which all but the first start mid-conversation.
# Its ids are random: a word, with or without a number ("chat001_2"), is not one of them.
_LATER_CHUNK = re.compile(r"(?!([A-Z]?[a-z]*|[A-Z]*)\d*_)[0-9A-Za-z]{7}_[1-9]\d*")


@dataclass(frozen=True)
class Conversation:
    """What a model is asked.

    Attributes:
      name: the row's id, or a hash of its human turns; unique within a file.
      system: the system message that it opens with, if any.
      questions: human turns, at least one; none of them is blank.
    """

    name: str
    system: str | None
    questions: tuple[str, ...]


def read_conversations(
    path: str | Path, *, seed: int, max_turns: int | None, data_errors: str
) -> list[Conversation]:
    """The conversations of a file that begin with a human turn, shuffled by seed and name alone.

    Of a ShareGPT conversation in several parts the first part is taken, and of rows with the same
    id the first row; how many rows are left out is reported on stderr.

    Args:
      path: ShareGPT-format file.
      seed: of the order.
      max_turns: human turns to keep; None: all.
      data_errors: "stop" or "skip", see `sharegpt.read_rows`.

    Raises:
      UserError: the file cannot be read, has a bad row, or none that begins with a human turn.
    """
    found = conversations_of(sharegpt.read_rows(path, data_errors), max_turns)
    if not found:
        raise UserError(f"no conversation of {path} begins with a human turn")

    def rank(conversation: Conversation) -> bytes:
        return hashlib.sha256(f"{seed}:{conversation.name}".encode()).digest()

    return sorted(found.values(), key=rank)


def conversations_of(
    rows: Iterable[dict[str, Any]], max_turns: int | None
) -> dict[str, Conversation]:
    """The conversations that `read_conversations` takes from these rows, by name."""
    found: dict[str, Conversation] = {}
    left_out: Counter[str] = Counter()
    for row in rows:
        conversation = _conversation(row, max_turns)
        if conversation is None:
            continue
        if _LATER_CHUNK.fullmatch(conversation.name):
            left_out["later parts of conversations (ids like QWJhYvA_1)"] += 1
        elif found.setdefault(conversation.name, conversation) is not conversation:
            left_out["with the id of another row"] += 1
    for reason, count in left_out.items():
        print(f"{count:,} {'row' if count == 1 else 'rows'} left out: {reason}", file=sys.stderr)
    return found


def _conversation(row: dict[str, Any], max_turns: int | None) -> Conversation | None:
    turns = sharegpt.messages(row)
    system = turns[0]["content"] if turns and turns[0]["role"] == "system" else None
    turns = turns[system is not None :]
    if not turns or turns[0]["role"] != "user":
        return None
    questions = tuple(turn["content"] for turn in turns if turn["role"] == "user")[:max_turns]
    blank = next((i for i, question in enumerate(questions) if not question.strip()), None)
    questions = questions[:blank]
    name = row.get("id")
    if not questions:
        return None
    if name is None:
        name = hashlib.sha256(repr((system, questions)).encode()).hexdigest()[:16]
    return Conversation(str(name), system, questions)
