"""`--output`: rows kept as they are done, one per line, and FILE only at the end."""

import contextlib
import json

import pytest

from infer.row_file import identify, open_rows
from medusa_jax.errors import UserError

PROMPTS = ["a", "b\u2028", [{"role": "user", "content": "ä😀"}]]
ROWS = [{"prompt": prompt, "n": n} for n, prompt in enumerate(PROMPTS)]
CALL = {"seed": 1, "batch_size": 1}


def opened(folder, call=CALL, prompts=PROMPTS, overwrite=False):
    return open_rows(str(folder / "a.jsonl"), call, prompts, overwrite=overwrite)


def interrupted(folder, rows, **kwargs):
    with contextlib.suppress(KeyboardInterrupt), opened(folder, **kwargs) as file:
        for row in rows:
            file.add([row])
        raise KeyboardInterrupt
    assert [name for name in names(folder) if name.endswith("tmp")] == []


def names(folder):
    return sorted(file.name for file in folder.iterdir())


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_one_row_per_line_for_every_reader(tmp_path):
    with opened(tmp_path) as file:
        for row in ROWS:
            file.add([row])
    assert lines(tmp_path / "a.jsonl") == ROWS
    assert names(tmp_path) == ["a.jsonl"]


def test_rows_are_on_disk_as_soon_as_they_are_added(tmp_path):
    with opened(tmp_path) as file:
        assert names(tmp_path) == []
        for count in (1, 2, 3):
            file.add(ROWS[count - 1 : count])
            assert lines(tmp_path / "a.jsonl.part")[1:] == ROWS[:count]
            assert names(tmp_path) == ["a.jsonl.part"]


def test_an_interruption_keeps_the_old_file_and_the_new_rows(tmp_path, capsys):
    (tmp_path / "a.jsonl").write_text("old")
    interrupted(tmp_path, ROWS[:2])
    assert (tmp_path / "a.jsonl").read_text() == "old"
    assert "2 of 3 answers are kept in" in capsys.readouterr().err
    with opened(tmp_path) as file:
        assert file.rows == ROWS[:2]
        file.add(ROWS[2:])
    assert lines(tmp_path / "a.jsonl") == ROWS
    assert names(tmp_path) == ["a.jsonl"]


def test_an_error_before_the_first_row_leaves_nothing(tmp_path, capsys):
    interrupted(tmp_path, [])
    assert (names(tmp_path), capsys.readouterr().err) == ([], "")


@pytest.mark.parametrize("end", ["{", json.dumps(ROWS[2]), '{"prompt": "\\ud8'])
def test_a_half_written_last_line_is_left_out(tmp_path, end):
    interrupted(tmp_path, ROWS[:2])
    with (tmp_path / "a.jsonl.part").open("a") as part:
        part.write(end)
    interrupted(tmp_path, ROWS[2:])  # whose row follows the whole ones
    assert lines(tmp_path / "a.jsonl.part")[1:] == ROWS
    with opened(tmp_path) as file:
        assert file.rows == ROWS


def test_half_a_batch_is_answered_again(tmp_path):
    call = CALL | {"batch_size": 2}
    interrupted(tmp_path, ROWS[:1], call=call)
    with opened(tmp_path, call=call) as file:
        assert file.rows == []
        file.add(ROWS[:2])
        file.add(ROWS[2:])
    assert lines(tmp_path / "a.jsonl") == ROWS


def test_an_empty_part_is_no_call(tmp_path):
    (tmp_path / "a.jsonl.part").touch()
    with opened(tmp_path) as file:
        assert file.rows == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"call": CALL | {"seed": 2}}, "of a call with other seed: name another"),
        ({"call": CALL | {"seed": 2, "new": 0}}, "of a call with other seed, new: name another"),
        ({"prompts": ["a", "c"]}, "of a call with other prompts: name another"),
    ],
)
def test_the_rows_of_another_call_are_refused_unless_they_are_given_up(tmp_path, changes, message):
    interrupted(tmp_path, ROWS[:2])
    before = (tmp_path / "a.jsonl.part").read_text()
    with pytest.raises(UserError, match=message), opened(tmp_path, **changes):
        pass
    assert (tmp_path / "a.jsonl.part").read_text() == before
    with opened(tmp_path, overwrite=True, **changes) as file:
        assert file.rows == []


HEADER = json.dumps({"unfinished call": CALL}) + "\n"


@pytest.mark.parametrize(
    "text",
    [
        *("no JSON\n", "[]\n", '"text"\n', "{}\n", "no end", '{"unfinished call": 1}\n'),
        *(HEADER + "[1]\n", HEADER + '{"text": 1}\n', HEADER + "{\n"),
    ],
)
def test_a_file_that_no_call_has_left_is_refused(tmp_path, text):
    (tmp_path / "a.jsonl.part").write_text(text)
    with (
        pytest.raises(UserError, match="holds no rows of an interrupted") as error,
        opened(tmp_path),
    ):
        pass
    assert "\n" not in str(error.value)
    assert (tmp_path / "a.jsonl.part").read_text() == text


def test_rows_of_two_runs_at_once_are_refused(tmp_path):
    interrupted(tmp_path, [ROWS[0], ROWS[0]])
    with pytest.raises(UserError, match="do not follow the prompts"), opened(tmp_path):
        pass


def test_local_files_are_identified_by_what_changes_with_their_content(tmp_path):
    assert identify(None) is None
    assert identify("someone/model") == "someone/model"
    (tmp_path / "model.safetensors").write_text("1")
    first = identify(str(tmp_path))
    (tmp_path / "answers.jsonl").write_text("no weights")
    assert identify(str(tmp_path)) == first
    (tmp_path / "model.safetensors").write_text("12")
    assert identify(str(tmp_path)) != first
    assert identify(str(tmp_path / "answers.jsonl"))[1][:2] == ["answers.jsonl", 10]
