"""Reading conversations in every packing, and what is wrong with broken ones."""

import gzip
import json
import lzma

import numpy as np
import pytest

from medusa_jax import UserError
from train.data import sharegpt
from train.distill.kinds.material import read_sharegpt
from train.distill.kinds.mix import Mix
from train.distill.kinds.parts import part_of

ROWS = [
    {"id": "a_0", "conversations": [{"from": "human", "value": "hi\u2028there"}]},
    {"id": "b_0", "conversations": [{"from": "gpt", "value": ""}]},
]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)
GOOD = json.dumps(ROWS[0])


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("x.jsonl", LINES.encode()),
        ("x.jsonl.gz", gzip.compress(LINES.encode(), mtime=0)),
        ("x.jsonl.xz", lzma.compress(LINES.encode())),
        ("x.json", json.dumps(ROWS).encode()),
        ("x.json.gz", gzip.compress(json.dumps(ROWS, indent=1).encode(), mtime=0)),
        ("x.json.xz", lzma.compress(json.dumps(ROWS).encode())),
    ],
)
def test_every_packing_reads_the_same(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    assert list(sharegpt.read_rows(tmp_path / name)) == ROWS


BROKEN = [
    ("x.jsonl", GOOD + "\n{broken\n" + GOOD, "x.jsonl:2: not valid JSON"),
    ("x.jsonl", GOOD + "\n3\n", "x.jsonl:2: expected an object, found int"),
    ("x.jsonl", GOOD + '\n\n{"id": 1}', 'x.jsonl:3: no "conversations"'),
    ("x.jsonl", GOOD + '\n{"conversations": []}', "x.jsonl:2: the conversation is empty"),
    ("x.jsonl", GOOD + '\n{"conversations": [3]}', "x.jsonl:2: turn 1 is no object"),
    ("x.jsonl", GOOD + '\n{"conversations": [{"from": "alien"}]}', "x.jsonl:2: turn 1 .*alien"),
    ("x.jsonl", GOOD + '\n{"conversations": [{"from": []}]}', "x.jsonl:2: turn 1"),
    (
        "x.jsonl",
        GOOD + '\n{"conversations": [{"from": "gpt", "value": null}]}',
        'x.jsonl:2: the "value" of turn 1',
    ),
    (
        "x.jsonl",
        GOOD + '\n{"conversations": [{"from": "gpt", "value": "half a smile: \\ud83d"}]}',
        'x.jsonl:2: the "value" of turn 1 has a character that is not valid Unicode',
    ),
    (
        "x.jsonl",
        GOOD + '\n{"id": "\\ude00", "conversations": []}',
        'x.jsonl:2: the "id" has a character that is not valid Unicode',
    ),
    ("x.json", f"[\n{GOOD},\n{{}}]", 'x.json:3: no "conversations"'),
    ("x.json", f'[\n{GOOD},\n{{"id" 1}}]', "x.json:3: not valid JSON"),
]


@pytest.mark.parametrize(("name", "content", "message"), BROKEN)
def test_bad_rows_are_named_or_skipped_and_counted(tmp_path, capsys, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=message) as error:
        list(sharegpt.read_rows(tmp_path / name))
    assert "\n" not in str(error.value)
    assert capsys.readouterr().err == ""

    rows = list(sharegpt.read_rows(tmp_path / name, data_errors="skip"))
    assert rows == [ROWS[0]] * (content.count(GOOD))
    assert capsys.readouterr().err.startswith("1 row left out, the first: ")


def test_a_bad_byte_is_the_fault_of_its_row(tmp_path):
    text = GOOD.encode() + b'\n{"conversations": [{"from": "gpt", "value": "\xff"}]}\n'
    (tmp_path / "x.jsonl").write_bytes(text)
    with pytest.raises(UserError, match=r"x\.jsonl:2: .*not valid Unicode"):
        list(sharegpt.read_rows(tmp_path / "x.jsonl"))
    assert list(sharegpt.read_rows(tmp_path / "x.jsonl", data_errors="skip")) == [ROWS[0]]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.jsonl.xz", b"no xz", "cannot read"),
        ("x.jsonl.gz", gzip.compress(LINES.encode(), mtime=0)[:-9], "cannot read"),
        ("x.jsonl", b"\xff\xfe", "x.jsonl:1: not valid JSON"),
        ("x.jsonl", b"\n", "holds no conversations"),
        ("x.json", b"[]", "holds no conversations"),
        ("x.json", b'[{"id": "a', "x.json:1: the array is cut off here"),
        ("x.json", b"{}", "x.json:1: no"),
    ],
)
def test_useless_files_are_named(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        list(sharegpt.read_rows(tmp_path / name))


def test_an_array_that_is_cut_off_gives_what_is_whole(tmp_path, capsys):
    text = json.dumps(ROWS * 50, indent=1)
    (tmp_path / "x.json").write_text(text[:-20])
    assert list(sharegpt.read_rows(tmp_path / "x.json")) == (ROWS * 50)[:-1]
    assert "cut off" in capsys.readouterr().err


def test_missing_file_and_unknown_policy(tmp_path):
    with pytest.raises(UserError, match="cannot read"):
        list(sharegpt.read_rows(tmp_path / "none.jsonl"))
    with pytest.raises(UserError, match="stop, skip"):
        list(sharegpt.read_rows(tmp_path / "none.jsonl", data_errors="ignore"))


def test_roles_become_chat_roles():
    row = {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}
    assert sharegpt.messages(row) == [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
    ]


@pytest.mark.parametrize(
    "turn",
    [{"from": "alien", "value": "x"}, {"from": "human", "value": None}, {"from": "human"}, 3],
)
def test_unusable_conversations_are_empty(turn):
    assert sharegpt.messages({"conversations": [turn]}) == []
    assert sharegpt.messages({}) == []


@pytest.mark.parametrize(
    ("name", "base"), [("a_0", "a"), ("a_12", "a"), ("a_b", "a_b"), ("a_1_2", "a_1"), ("a", "a")]
)
def test_chunks_of_a_conversation_share_its_base_id(name, base):
    assert sharegpt.base_ids(["x_0", name, "x_1"]) == ["x", base, "x"]


@pytest.mark.parametrize(
    ("ids", "apart"),
    [
        (["a", "a", "b"], ["a", "a", "b"]),  # twice the same conversation
        (["x"] * 3, ["row 0", "row 1", "row 2"]),
        (["", "a", "None", "None"], ["row 0", "a", "row 2", "row 3"]),
        (["a", *["x"] * 300], ["a", *(f"row {i}" for i in range(1, 301))]),
    ],
)
def test_ids_that_say_nothing(ids, apart):
    assert sharegpt.told_apart(ids) == apart


def test_prompts_made_of_a_conversation_are_parts_of_it(tmp_path):
    """Or a code block would be learned from, and the question that it answers held out."""
    file = tmp_path / "rows.jsonl"
    with file.open("w") as lines:
        for i in range(60):
            answer = f"Here it is:\n```python\n{'x = 1  # a line of code ' * 8}{i}\n```\n"
            turns = [("human", f"Please write program {i}."), ("gpt", answer)]
            turns = [{"from": speaker, "value": text} for speaker, text in turns]
            lines.write(json.dumps({"id": f"QWJ{i}_0", "conversations": turns}) + "\n")
    made = Mix(read_sharegpt(file, "stop", "train", []), "train", 0).prompts(400)
    names = [prompt.name for kind in ("first", "code") for prompt in made[kind]]
    bases = sharegpt.base_ids(names)
    assert len(set(names)) == len(names) > len(set(bases))
    assert set(bases) <= {f"QWJ{i}" for i in range(60)}
    others = ["list:7", "problem:gsm8k.12", "a:b"]
    assert sharegpt.base_ids(others) == others


def test_prompts_of_all_kinds_are_held_out():
    """`train.prompts` makes none of conversations that are: their hash must not decide again."""
    bases = [f"QWJ{i}" for i in range(3000)]
    bases = [base for base in bases if part_of(base) == "train"]
    kinds = ("first:{}_0", "summary:{}_11.4.20", "code:{}_0.1.2")
    names = [kind.format(base) for base in bases for kind in kinds]
    held_out = [sharegpt.split_hash(name) <= 0.02 * 2**64 for name in sharegpt.split_names(names)]
    assert 0.015 < np.mean(held_out) < 0.025
    assert held_out[::3] == held_out[1::3] == held_out[2::3]  # all of a conversation, or none
    rows = ["a_0", "a_1", "b_0", "list:7"]
    assert sharegpt.split_names(rows) == ["a", "a", "b", "list:7"]


def test_the_name_of_a_collection_is_no_conversation():
    chunks = [f"ErOTMZ3_{i}" for i in range(89)]
    many = [f"identity_{i}" for i in range(300)]
    assert sharegpt.base_ids([f"identity_{i}" for i in range(40)])[7] == "identity_7"
    # Two conversations or more are told apart, however few and long they are.
    assert set(sharegpt.base_ids([f"conv{c}_{i}" for c in "AB" for i in range(15)])) == {
        "convA",
        "convB",
    }
    mixed = sharegpt.base_ids([*chunks, *many, *(f"{i:x}" for i in range(700))])
    assert mixed[:89] == ["ErOTMZ3"] * 89
    assert mixed[89:389] == many
