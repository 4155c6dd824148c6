import json

import pytest

from infer.prompts import check_text, read_prompt_file, with_system
from medusa_jax import UserError

MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]


def test_rows_of_both_kinds_in_order(tmp_path):
    rows = [{"prompt": "eins"}, {"messages": MESSAGES, "id": 3}, {"prompt": ""}]
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows))
    assert read_prompt_file(path) == ["eins", MESSAGES, ""]


def test_line_ends_in_strings_marks_and_blank_lines_do_not_matter(tmp_path):
    path = tmp_path / "a.JSONL"
    text = '{"prompt": "a\u2028b\u0085c"}\r\n  \r\n{"prompt": "grün"}\r\n'
    path.write_bytes(text.encode("utf-8-sig"))
    assert read_prompt_file(path) == ["a\u2028b\u0085c", "grün"]


def test_a_text_file_is_one_prompt_as_it_stands(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text('{"prompt": "no JSON here"}\n\nzwei \n', encoding="utf-8")
    assert read_prompt_file(str(path)) == ['{"prompt": "no JSON here"}\n\nzwei \n']


@pytest.mark.parametrize(
    "row",
    [
        '{"prompt": "a"',
        '{"prompt": "a"} {}',
        '["a"]',
        '"a"',
        "{}",
        '{"prompt": 1}',
        '{"prompt": null}',
        '{"prompt": ["a"]}',
        '{"prompt": "a", "messages": [{"role": "user", "content": "a"}]}',
        '{"messages": []}',
        '{"messages": "a"}',
        '{"messages": ["a"]}',
        '{"messages": [{"role": "user"}]}',
        '{"messages": [{"content": "a"}]}',
        '{"messages": [{"role": "user", "content": [{"type": "text"}]}]}',
        '{"prompt": "\\ud800"}',
        '{"messages": [{"role": "user", "content": "\\udfff"}]}',
        "[" * 100_000,
        '{"prompt": ' + "1" * 10_000 + "}",
    ],
)
def test_a_malformed_row_is_named_by_its_line(tmp_path, row):
    path = tmp_path / "a.jsonl"
    path.write_text('{"prompt": "fine"}\n\n' + row + "\n")
    with pytest.raises(UserError) as error:
        read_prompt_file(path)
    assert str(error.value).startswith(f"{path}:3: ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl"])
def test_bytes_that_are_no_text_are_named_by_their_line(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(b'{"prompt": "a"}\n{"prompt": "\xff"}\n')
    with pytest.raises(UserError, match=f"{name}:2: not UTF-8 text"):
        read_prompt_file(path)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("none.txt", "No such file"),
        ("folder.txt", "Is a directory"),
        ("empty.txt", "it is empty"),
        ("blank.jsonl", "it is empty"),
        ("a.json", r"must end in \.txt or \.jsonl"),
    ],
)
def test_a_file_without_prompts_is_refused(tmp_path, name, reason):
    (tmp_path / "folder.txt").mkdir()
    (tmp_path / "empty.txt").touch()
    (tmp_path / "blank.jsonl").write_text(" \n\n")
    (tmp_path / "a.json").write_text("{}")
    with pytest.raises(UserError, match=reason):
        read_prompt_file(tmp_path / name)


def test_half_a_surrogate_pair_is_refused():
    assert check_text("a😀", "--prompt") == "a😀"
    with pytest.raises(UserError, match="--prompt: character 2 is not valid Unicode"):
        check_text("a\ud83d", "--prompt")


def test_the_first_turns_of_mt_bench_rows_are_asked(tmp_path):
    path = tmp_path / "mt.jsonl"
    rows = [{"question_id": 81, "turns": ["A?", "B?"]}, {"turns": ["C?"]}]
    path.write_text("\n\n".join(json.dumps(row) for row in rows))
    assert read_prompt_file(path) == ["A?", "C?"]


@pytest.mark.parametrize("turns", [[], "A?", [1], None])
def test_malformed_turns_are_refused_with_their_line(tmp_path, turns):
    path = tmp_path / "mt.jsonl"
    path.write_text(json.dumps({"turns": ["A?"]}) + "\n" + json.dumps({"turns": turns}) + "\n")
    with pytest.raises(UserError, match=r"mt\.jsonl:2: write .turns. as a list"):
        read_prompt_file(path)


def test_a_system_message_goes_first_unless_there_is_one():
    user = {"role": "user", "content": "Hi"}
    system = {"role": "system", "content": "Rhyme."}
    assert with_system("Hi", "Rhyme.") == [system, user]
    assert with_system([user], "Rhyme.") == [system, user]
    assert with_system(MESSAGES, "Rhyme.") == MESSAGES
