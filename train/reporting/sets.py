"""The prompts of a report, read and tokenized."""

import dataclasses
import itertools
import json
from collections.abc import Iterator, Sequence
from typing import Any

from medusa_jax import MedusaLM
from medusa_jax.chat import Encoded, Example, tokenize
from medusa_jax.decoding.generate import encode_prompt
from medusa_jax.errors import UserError
from medusa_jax.paths import user_path
from train.data.json_rows import read_json_rows
from train.data.pipeline import load_data
from train.data.sharegpt import is_text


@dataclasses.dataclass(frozen=True)
class Sets:
    """What is read and asked, the same for all models.

    Attributes:
      conversations: with their replies.
      problems: with their answers; may be none.
      questions: to be answered.
      max_new_tokens: of an answer.

    Raises:
      UserError: one of them has a single prompt, for which there is no interval.
    """

    conversations: list[Example]
    problems: list[Example]
    questions: list[Encoded]
    max_new_tokens: int

    def __post_init__(self) -> None:
        for name in ("conversations", "problems", "questions"):
            if len(getattr(self, name)) == 1:
                raise UserError(f"an interval needs 2 {name} or more, there is 1: give others")
        if not self.questions:
            raise UserError("there are no questions: name a file that has some")


def read_questions(path: str) -> list[str]:
    """The first turns of a file like MT-bench's.

    Raises:
      UserError: the file cannot be read, or a row has no turns.
    """
    questions = [row["turns"][0] for row in _rows(path, {"turns": list})]
    for number, question in enumerate(questions, start=1):
        if not isinstance(question, str):
            raise UserError(f"{path}: the first turn of question {number} is no text")
    return questions


def read_problems(path: str, count: int) -> list[dict[str, str]]:
    """The first rows, with "question" and "answer", of a file like GSM8K's.

    Raises:
      UserError: the file cannot be read, or one of these rows has no such texts.
    """
    return list(itertools.islice(_rows(path, {"question": str, "answer": str}), count))


def _rows(path: str, kinds: dict[str, type]) -> Iterator[dict[str, Any]]:
    """Objects with these keys; the first other one raises."""
    for row in read_json_rows(user_path(path)):
        is_good = isinstance(row.value, dict) and all(
            isinstance(row.value.get(key), kind) and row.value[key] for key, kind in kinds.items()
        )
        problem = "" if is_good else row.problem or f"expected an object with {', '.join(kinds)}"
        if is_good and not is_text(json.dumps(row.value, ensure_ascii=False)):
            problem = "a character is not valid Unicode"
        if problem:
            raise UserError(f"{path}:{row.line}: {problem}")
        yield row.value


def held_out_conversations(
    lm: MedusaLM, data: str, share: float, seq_len: int, count: int, max_length: int
) -> list[Example]:
    """Conversations that no run has learned from, provided that their ids are the same.

    Args:
      lm: the model whose tokens they get.
      data: see `load_data`.
      share: the smallest that a run has held out.
      seq_len: the largest of a run: where no conversation falls into the share, the first of those
        that can be used is held out.
      count: at most this many.
      max_length: longer ones are cut.
    """
    splits = load_data(
        data,
        lm.tokenizer,
        seq_len=max(seq_len, max_length),
        held_out=share,
        data_errors="skip",  # what a run has accepted
        progress=False,
    )
    rows = (splits.held_out[i] for i in range(len(splits.held_out)))
    cut = (Example(row["token"][:max_length], row["is_label"][:max_length]) for row in rows)
    return list(itertools.islice((one for one in cut if one.is_label_T.any()), count))


def tokenized_problems(
    lm: MedusaLM, problems: Sequence[dict[str, str]], max_length: int
) -> list[Example]:
    """Each problem as a conversation: a question and its answer."""
    return [_problem(lm, row, max_length) for row in problems]


def _problem(lm: MedusaLM, row: dict[str, str], max_length: int) -> Example:
    pairs = (("user", row["question"]), ("assistant", row["answer"]))
    messages = [{"role": role, "content": content} for role, content in pairs]
    return tokenize(lm.tokenizer, messages, truncated=False, max_length=max_length)


def encoded_questions(lm: MedusaLM, questions: Sequence[str]) -> list[Encoded]:
    """Each question in the chat template.

    Raises:
      UserError: one is longer than the model's context.
    """
    return [encode_prompt(lm, question) for question in questions]
