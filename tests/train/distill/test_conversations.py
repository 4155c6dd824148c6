"""Which conversations are asked, under which names and in which order."""

import json

import pytest

from medusa_jax.errors import UserError
from train.distill.conversations import read_conversations


def turn(speaker, text):
    return {"from": speaker, "value": text}


def row(*texts, **more):
    turns = [turn(("human", "gpt")[i % 2], text) for i, text in enumerate(texts)]
    return {"conversations": turns} | more


@pytest.fixture
def read(tmp_path):
    def read(rows, *, seed=0, max_turns=None, data_errors="stop"):
        path = tmp_path / "prompts.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return read_conversations(path, seed=seed, max_turns=max_turns, data_errors=data_errors)

    return read


def test_all_human_turns_and_the_system_message_are_kept(read):
    chat = row("a", "x", "b", "y", "c", id=7)
    (found,) = read([chat])
    assert (found.name, found.system, found.questions) == ("7", None, ("a", "b", "c"))
    chat["conversations"].insert(0, turn("system", "be brief"))
    (found,) = read([chat], max_turns=2)
    assert (found.system, found.questions) == ("be brief", ("a", "b"))


def test_a_conversation_ends_before_a_blank_question(read):
    assert [c.questions for c in read([row("a", "x", " ", "y", "c"), row("", "x", "d")])] == [
        ("a",)
    ]


def test_later_chunks_and_other_first_speakers_are_left_out(read, capsys):
    answered_first = {"id": "z", "conversations": [turn("gpt", "x"), turn("human", "a")]}
    rows = [row("a", id="QWJhYvA_0"), row("b", id="QWJhYvA_1"), row("c", id="chat_12")]
    names = ["example_3", "chat001_2", "Test123_1", "1234567_1"]
    rows += [row("d", id=name) for name in names]
    found = {c.name for c in read([*rows, answered_first])}
    assert found == {"QWJhYvA_0", "chat_12", *names}
    assert "1 row left out: later parts" in capsys.readouterr().err


def test_rows_without_an_id_are_named_by_what_they_ask(read):
    first, second = read([row("a", "x"), row("b", "x")])
    assert first.name != second.name
    again = read([row("new"), row("b", "other reply"), row("a")])
    assert {c.name for c in again} > {first.name, second.name}


def test_a_name_stands_for_one_conversation(read, capsys):
    assert [c.questions for c in read([row("a", id="n"), row("b", id="n")])] == [("a",)]
    assert "1 row left out: with the id of another row" in capsys.readouterr().err


def test_the_order_depends_on_seed_and_name_alone(read):
    rows = [row(f"question {i}", id=f"n{i}") for i in range(20)]
    names = [c.name for c in read(rows)]
    assert [c.name for c in read(rows[::-1])] == names
    assert [c.name for c in read(rows[:10])] == [n for n in names if int(n[1:]) < 10]
    assert [c.name for c in read(rows, seed=1)] != names


def test_files_without_questions_and_bad_rows_end_in_one_line(read, capsys):
    with pytest.raises(UserError, match=r"no conversation of .*prompts.jsonl begins with a human"):
        read([{"id": "z", "conversations": [turn("gpt", "x")]}])
    with pytest.raises(UserError, match=r"prompts\.jsonl:2: "):
        read([row("a"), {"id": 1}])
    assert len(read([row("a"), {"id": 1}], data_errors="skip")) == 1
    assert "1 row left out" in capsys.readouterr().err
