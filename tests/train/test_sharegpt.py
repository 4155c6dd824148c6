"""Reading conversations in every packing, and what is wrong with broken ones."""

import gzip
import json
import lzma

import pytest

from medusa_jax import UserError
from train import sharegpt

ROWS = [
    {"id": "a_0", "conversations": [{"from": "human", "value": "hi\u2028there"}]},
    {"id": "b_0", "conversations": [{"from": "gpt", "value": "ok"}]},
]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("x.jsonl", LINES.encode()),
        ("x.jsonl.gz", gzip.compress(LINES.encode())),
        ("x.jsonl.xz", lzma.compress(LINES.encode())),
        ("x.json", json.dumps(ROWS).encode()),
        ("x.json.gz", gzip.compress(json.dumps(ROWS).encode())),
    ],
)
def test_every_packing_reads_the_same(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    assert list(sharegpt.read_rows(tmp_path / name)) == ROWS


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.jsonl", b'{"id": 1}\n{broken\n', "x.jsonl:2: not valid JSON"),
        ("x.jsonl", b"[1]\n", "x.jsonl:1: expected an object"),
        ("x.jsonl.xz", b"no xz", "cannot read"),
        ("x.json", b'{"id": 1}', "expected a JSON array"),
        ("x.json", b"[1", "cannot read"),
    ],
)
def test_broken_files_are_named(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message) as error:
        list(sharegpt.read_rows(tmp_path / name))
    assert "\n" not in str(error.value)


def test_missing_file(tmp_path):
    with pytest.raises(UserError, match="cannot read"):
        list(sharegpt.read_rows(tmp_path / "none.jsonl"))


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
