"""What conversations and problems offer, and to which part of the prompts."""

import hashlib
import json
import re

import pytest

from medusa_jax.errors import UserError
from train.distill.kinds.material import read_problems, read_sharegpt
from train.distill.kinds.parts import PARTS

PASSAGE = (
    "It is said that the owner of the house {} had many visitors, and that all of them liked it."
)


def bases(count):
    """Names as ShareGPT's, made of letters."""
    return [f"Q{''.join(chr(97 + int(digit)) for digit in f'{i:06d}')}" for i in range(count)]


def row(base, number, first):
    """A row of a conversation, in which each text has the conversation's name."""
    items = f"1. Idea {base}: the first.\n2. Other {base}: the second.\n"
    prose = "\n\n".join(PASSAGE.format(base) for _ in range(4))
    code = f"```python\n{f'print({base!r})  # ' * 5}\n```\n"
    turns = [{"from": "gpt", "value": f"{items}\n{prose}\n\n{code} The end of the answer."}] * 2
    if first:
        asked = [{"from": "human", "value": f"{word} is {base}?"} for word in ("What", "Why")]
        turns = [asked[0], turns[0], asked[1], turns[1]]
    return {"id": f"{base}_{number}", "conversations": turns}


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def conversations(tmp_path_factory):
    rows = [row(base, number, number == 0) for base in bases(400) for number in (0, 7)]
    return write(tmp_path_factory.mktemp("data") / "chats.jsonl", rows)


def mentioned(texts):
    return set(re.findall(r"\bQ[a-j]{6}\b", " ".join(" ".join(t.parts) for t in texts)))


def place(base):
    return int.from_bytes(hashlib.sha256(base.encode()).digest()[:8], "big") / 2**64


def test_every_sort_of_text_keeps_to_its_part(conversations):
    ends = {"train": (0.10, 1), "choose": (0.02, 0.06), "final": (0.06, 0.10)}
    for part in PARTS:
        found = read_sharegpt(conversations, "stop", part, [])
        low, high = ends[part]
        expected = {base for base in bases(400) if low < place(base) <= high}
        assert expected
        for sort in ("passage", "code", "term"):
            assert mentioned(found[sort]) <= expected
        assert mentioned([text for texts in found.values() for text in texts]) == expected
        both = [*found["opening"], *found["dialogue"]]
        assert {text.name for text in both} == {f"{base}_0" for base in expected}
    assert [base for base in bases(400) if place(base) <= 0.02]


def test_texts_are_what_they_are_called(conversations):
    found = read_sharegpt(conversations, "stop", "train", [])
    assert set(found) == {"opening", "dialogue", "passage", "sentence", "typos", "code", "term"}
    for sort, texts in found.items():
        assert len({text.name for text in texts}) == len(texts), sort
    base = mentioned(found["dialogue"][:1]).pop()
    assert found["dialogue"][0].parts == (f"What is {base}?", f"Why is {base}?")
    assert all(len(text.parts) == 1 for text in found["opening"])
    (passage,) = found["passage"][0].parts
    assert set(passage.split("\n\n")) == {PASSAGE.format(mentioned(found["passage"][:1]).pop())}
    assert 200 <= len(passage) <= 900
    assert all(re.fullmatch(r"(Idea|Other) Q\w+", text.parts[0]) for text in found["term"])
    assert all(text.parts[0].startswith("```python\n") for text in found["code"])
    (sentence,), (typos,) = found["sentence"][0].parts, found["typos"][0].parts
    assert sentence == PASSAGE.format(mentioned(found["sentence"][:1]).pop())
    assert sorted(typos) == sorted(PASSAGE.format(mentioned(found["typos"][:1]).pop()))


def test_conversations_of_other_files_are_left_out(conversations, tmp_path):
    whole = mentioned(read_sharegpt(conversations, "stop", "train", [])["code"])
    unwanted = sorted(whole)[:3]
    # Of one only a later row is named; and a file of one row says what it is a part of.
    more = [write(tmp_path / "a.jsonl", [row(base, 0, True) for base in unwanted[:2]])]
    more += [write(tmp_path / "b.jsonl", [row(unwanted[2], 9, False)])]
    found = read_sharegpt(conversations, "stop", "train", more)
    assert mentioned([t for texts in found.values() for t in texts]) == whole - set(unwanted)


def test_what_another_part_asks_is_not_asked(tmp_path):
    """ "Go on" begins many conversations."""
    rows = [row(base, 0, True) for base in bases(100)]
    for each in rows[:90]:
        each["conversations"][0]["value"] = "Go on"
    found = read_sharegpt(write(tmp_path / "chats.jsonl", rows), "stop", "train", [])
    asked = {text.parts[0] for text in [*found["opening"], *found["dialogue"]]}
    assert asked <= {f"What is {base}?" for base in bases(100)[90:]}
    assert asked


def test_problems_of_reports_are_left_out_and_parts_share_none(tmp_path):
    path = tmp_path / "problems.jsonl"
    path.write_text("".join(json.dumps({"question": f"problem {i}"}) + "\n" for i in range(600)))
    found = {part: {t.parts[0] for t in read_problems(path, part)} for part in PARTS}
    assert not found["train"] & found["choose"] | found["choose"] & found["final"]
    assert min(map(len, found.values())) > 5
    assert not set.union(*found.values()) & {f"problem {i}" for i in range(100)}


def test_a_file_without_problems_is_refused(tmp_path):
    path = tmp_path / "problems.jsonl"
    path.write_text('{"question": "a"}\n{"turns": ["a"]}\n')
    with pytest.raises(UserError, match=r'problems.jsonl:2: no "question"'):
        read_problems(path, "train")


def test_a_problem_that_is_not_unicode_is_refused(tmp_path):
    path = tmp_path / "problems.jsonl"
    path.write_text('{"question": "What is \\ud800?"}\n')
    with pytest.raises(UserError, match=r"problems.jsonl:1: no \"question\""):
        read_problems(path, "train")
