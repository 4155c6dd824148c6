"""Texts that prompts are made of: from ShareGPT's conversations and from GSM8K's problems."""

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medusa_jax.errors import UserError
from train.data import sharegpt
from train.data.json_rows import read_json_rows
from train.distill.conversations import conversations_of
from train.distill.kinds.choices import number, pick
from train.distill.kinds.parts import part_of

# Longest question of a conversation in characters: about 300 tokens.
_LONGEST_QUESTION = 1100
_MOST_QUESTIONS = 4
# `train.report` measures perplexity on the answers to the first problems: at most this many.
_PROBLEMS_OF_REPORTS = 100

_CODE = re.compile(r"```(\w*)\n(.*?)```", re.DOTALL)
_SENTENCE = re.compile(r"(?:(?<=[.!?] )|^)[A-Z][^.!?:*#|\n]{40,150}[.!?](?=\s|$)", re.MULTILINE)
_TERM = re.compile(r"^(?:\d+\. |[*-] )\**([A-Z][A-Za-z' -]{4,32}?)\**:", re.MULTILINE)
_LEADS_ON = re.compile(r"(Sure|Certainly|Of course|Yes|Absolutely|Great|Here)\b|I[' ]|You're")
_ABOUT_ITSELF = re.compile(r"\bAI (language )?model\b|^(I'm sorry|I apologize)")

Row = dict[str, Any]


@dataclass(frozen=True)
class Text:
    """A piece of text.

    Attributes:
      name: where it comes from, unique among the texts of its sort; of a text from ShareGPT it
        begins with the row's id.
      parts: the text; or the questions of a conversation.
    """

    name: str
    parts: tuple[str, ...]


def read_sharegpt(
    path: Path, data_errors: str, part: str, leave_out: Iterable[Path]
) -> dict[str, list[Text]]:
    """What the conversations of one part have to offer; rows without an id are left out.

    Args:
      path: ShareGPT-format file.
      data_errors: "stop" or "skip", see `sharegpt.read_rows`.
      part: of `parts.PARTS`.
      leave_out: ShareGPT-format files, whose conversations give nothing.

    Returns:
      Texts by sort: "opening" (a first question), "dialogue" (two to four questions), and what
      answers consist of: "passage", "sentence", "typos" (a sentence with slips), "code" (a block)
      and "term" (the name of an item of a list).

    Raises:
      UserError: a file cannot be read, has a bad row or no question.
    """
    rows = list(sharegpt.read_rows(path, data_errors))
    left_out = [row for file in leave_out for row in sharegpt.read_rows(file)]
    wanted = _names_of(part, rows, left_out)
    found = defaultdict(list)
    for text in _conversations(rows, wanted):
        is_dialogue = len(text.parts) > 1 and number(text.name, "sort") % 2 == 0
        if is_dialogue:
            found["dialogue"].append(Text(text.name, text.parts[:_MOST_QUESTIONS]))
        else:
            found["opening"].append(Text(text.name, text.parts[:1]))
    for name, turn, answer in _answers(rows, wanted):
        for i, (sort, text) in enumerate(_pieces(f"{name}.{turn}", answer)):
            found[sort].append(Text(f"{name}.{turn}.{i}", (text,)))
    return dict(found)


def read_problems(path: Path, part: str) -> list[Text]:
    """Questions of one part of GSM8K's training problems.

    Raises:
      UserError: the file cannot be read, or a row has no question.
    """
    found = []
    for row in read_json_rows(path):
        question = row.value.get("question") if isinstance(row.value, dict) else None
        if not isinstance(question, str) or not question.strip() or not sharegpt.is_text(question):
            raise UserError(f'{path}:{row.line}: no "question": expected a problem of GSM8K')
        if row.line > _PROBLEMS_OF_REPORTS and part_of(question) == part:
            found.append(Text(f"gsm8k.{row.line}", (question,)))
    return found


def _names_of(part: str, rows: Sequence[Row], left_out: Sequence[Row]) -> set[str]:
    """Ids of the rows whose conversation is in that part and has no row that is left out."""
    names, unwanted = (list(filter(None, map(_name, some))) for some in (rows, left_out))
    bases = sharegpt.base_ids([*names, *unwanted])
    bad = set(bases[len(names) :])
    return {
        name
        for name, base in zip(names, bases, strict=False)
        if base not in bad and part_of(base) == part
    }


def _name(row: Row) -> str:
    return "" if row.get("id") is None else str(row["id"])


def _conversations(rows: Iterable[Row], wanted: Collection[str]) -> list[Text]:
    """Questions up to the first unfit one; no openings that another part has as well."""
    own, openings = {}, set()
    for conversation in conversations_of(rows, None).values():
        questions = conversation.questions
        if conversation.name not in wanted:
            openings.add(questions[0])
        elif _is_question(questions[0]):
            bad = (i for i, question in enumerate(questions) if not _is_question(question))
            own[questions[0]] = Text(conversation.name, questions[: next(bad, None)])
    return [text for opening, text in own.items() if opening not in openings]


def _is_question(text: str) -> bool:
    return len(text) <= _LONGEST_QUESTION and _is_latin(text)


def _answers(rows: Iterable[Row], wanted: Collection[str]) -> Iterator[tuple[str, int, str]]:
    for row in rows:
        if (name := _name(row)) in wanted:
            for turn, message in enumerate(sharegpt.messages(row)):
                if message["role"] == "assistant" and not _ABOUT_ITSELF.search(message["content"]):
                    yield name, turn, message["content"]


def _pieces(name: str, answer: str) -> Iterator[tuple[str, str]]:
    """Sort and text of what an answer gives: its prose gives either a passage or a sentence."""
    for language, code in _CODE.findall(answer):
        if 80 <= len(code) <= 700 and _is_latin(code):
            yield "code", f"```{language}\n{code.rstrip()}\n```"
    if terms := _TERM.findall(answer):
        yield "term", pick(terms, name, "term")
    prose = _CODE.sub("", answer)
    if not _is_latin(prose) or " the " not in prose:
        return
    if number(name, "sort") % 3 == 0:
        if sentences := _SENTENCE.findall(prose):
            sentence = pick(sentences, name, "sentence")
            has_slips = number(name, "slips") % 5 == 0
            yield ("typos", _with_slips(sentence)) if has_slips else ("sentence", sentence)
    elif passage := _passage(prose):
        yield "passage", passage


def _passage(prose: str) -> str | None:
    """The first paragraphs that are long enough together, after what only leads to them."""
    passage = ""
    for paragraph in re.split(r"\n\s*\n", prose):
        if passage or (len(paragraph) > 60 and not _LEADS_ON.match(paragraph)):
            passage = f"{passage}\n\n{paragraph.strip()}".strip()
        if len(passage) >= 200 and not passage.endswith(":"):
            return passage if len(passage) <= 900 else None
    return None


def _with_slips(sentence: str) -> str:
    """Two neighbouring letters change places in about every third longer word."""

    def slip(word: re.Match[str]) -> str:
        text = word[0]
        if number(text, sentence) % 3:
            return text
        i = number(sentence, text) % (len(text) - 1)
        return text[:i] + text[i + 1] + text[i] + text[i + 2 :]

    return re.sub(r"\b[a-z]{4,}\b", slip, sentence)


def _is_latin(text: str) -> bool:
    return sum(map(str.isascii, text)) >= 0.95 * len(text)
