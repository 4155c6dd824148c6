"""What people asked: the human turns of conversations, in an order that never changes."""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medusa_jax.errors import UserError
from train.data import sharegpt

# ShareGPT's long conversations come in chunks of which all but the first start in mid-conversation.
# Its ids are random: one without a digit or a capital is rather a word, and "example_1" no chunk.
_LATER_CHUNK = re.compile(r"(?=[a-z]*[0-9A-Z])[0-9A-Za-z]{7}_[1-9]\d*")


@dataclass(frozen=True)
class Conversation:
    """What a model is asked.

    Attributes:
      name: the row's id, or a hash of its human turns; no two are alike in a file.
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

    Args:
      path: ShareGPT-format file.
      seed: of the order.
      max_turns: keep so many human turns; None: all.
      data_errors: "stop" or "skip", see `sharegpt.read_rows`.

    Raises:
      UserError: the file cannot be read, has a bad row, or none that begins with a human turn.
    """
    found: dict[str, Conversation] = {}
    for row in sharegpt.read_rows(path, data_errors):
        conversation = _conversation(row, max_turns)
        if conversation is not None:
            found.setdefault(conversation.name, conversation)
    if not found:
        raise UserError(f"no conversation of {path} begins with a human turn")

    def rank(conversation: Conversation) -> bytes:
        return hashlib.sha256(f"{seed}:{conversation.name}".encode()).digest()

    return sorted(found.values(), key=rank)


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
    if not questions or _LATER_CHUNK.fullmatch(str(name)):
        return None
    if name is None:
        name = hashlib.sha256(repr((system, questions)).encode()).hexdigest()[:16]
    return Conversation(str(name), system, questions)
