"""`--output`: rows kept as they are done, one per line, and FILE only at the end."""

import contextlib
import json

import pytest

from infer.row_file import identify, open_rows
from medusa_jax.errors import UserError

PROMPTS = ["a", "b\u2028", [{"role": "user", "content": "ä😀"}]]
ROWS = [{"prompt": prompt, "n": n} for n, prompt in enumerate(PROMPTS)]
CALL = {"seed": 1}
OTHERWISE = (1, 2, 0)  # an order in which they may be done


def opened(folder, call=CALL, prompts=PROMPTS, overwrite=False):
    return open_rows(str(folder / "a.jsonl"), call, prompts, overwrite=overwrite)


def interrupted(folder, rows, **kwargs):
    with contextlib.suppress(KeyboardInterrupt), opened(folder, **kwargs) as file:
        for index in rows:
            file.add({index: ROWS[index]})
        raise KeyboardInterrupt
    assert [name for name in names(folder) if name.endswith("tmp")] == []


def names(folder):
    return sorted(file.name for file in folder.iterdir())


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def part(folder):
    """The rows of FILE.part, with their index."""
    return [(row.pop("index"), row) for row in lines(folder / "a.jsonl.part")[1:]]


def pairs(indices):
    return [(index, ROWS[index]) for index in indices]


def test_one_row_per_line_for_every_reader_in_the_order_of_the_prompts(tmp_path):
    with opened(tmp_path) as file:
        for index in OTHERWISE:
            file.add({index: ROWS[index]})
    assert lines(tmp_path / "a.jsonl") == ROWS
    assert names(tmp_path) == ["a.jsonl"]


def test_rows_are_on_disk_as_soon_as_they_are_added(tmp_path):
    with opened(tmp_path) as file:
        assert names(tmp_path) == []
        for count, index in enumerate(OTHERWISE, start=1):
            file.add({index: ROWS[index]})
            assert part(tmp_path) == pairs(OTHERWISE[:count])
            assert names(tmp_path) == ["a.jsonl.part"]


def test_an_interruption_keeps_the_old_file_and_the_new_rows(tmp_path, capsys):
    (tmp_path / "a.jsonl").write_text("old")
    interrupted(tmp_path, (2, 0))
    assert (tmp_path / "a.jsonl").read_text() == "old"
    assert "2 of 3 answers are kept in" in capsys.readouterr().err
    with opened(tmp_path) as file:
        assert file.rows == dict(pairs((2, 0)))
        file.add({1: ROWS[1]})
    assert lines(tmp_path / "a.jsonl") == ROWS
    assert names(tmp_path) == ["a.jsonl"]


def test_after_an_interrupted_new_start_the_next_run_goes_on(tmp_path, capsys):
    interrupted(tmp_path, (0,), overwrite=True)
    assert "rerun the same command, without --overwrite, to resume" in capsys.readouterr().err
    with opened(tmp_path) as file:
        assert file.rows == dict(pairs((0,)))


def test_an_error_before_the_first_row_leaves_nothing(tmp_path, capsys):
    interrupted(tmp_path, [])
    assert (names(tmp_path), capsys.readouterr().err) == ([], "")


@pytest.mark.parametrize("end", ["{", json.dumps(ROWS[2]), '{"prompt": "\\ud8'])
def test_a_half_written_last_line_is_left_out(tmp_path, end):
    interrupted(tmp_path, (1, 2))
    with (tmp_path / "a.jsonl.part").open("a") as file:
        file.write(end)
    interrupted(tmp_path, (0,))  # whose row follows the whole ones
    assert part(tmp_path) == pairs((1, 2, 0))
    with opened(tmp_path) as file:
        assert file.in_order() == ROWS


def test_a_call_may_hold_what_json_knows_by_another_name(tmp_path):
    call = CALL | {"stop": (), "bias": {1: 0.5}}
    interrupted(tmp_path, (0, 1), call=call)
    with opened(tmp_path, call=call) as file:
        assert len(file.rows) == 2


def test_an_empty_part_is_no_call(tmp_path):
    (tmp_path / "a.jsonl.part").touch()
    with opened(tmp_path) as file:
        assert file.rows == {}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"call": CALL | {"seed": 2}}, "of a call with other seed: name another"),
        ({"call": CALL | {"seed": 2, "new": 0}}, "of a call with other seed, new: name another"),
        ({"prompts": ["a", "c"]}, "of a call with other prompts: name another"),
    ],
)
def test_the_rows_of_another_call_are_refused_unless_they_are_given_up(tmp_path, changes, message):
    interrupted(tmp_path, (0, 1))
    before = (tmp_path / "a.jsonl.part").read_text()
    with pytest.raises(UserError, match=message), opened(tmp_path, **changes):
        pass
    assert (tmp_path / "a.jsonl.part").read_text() == before
    with opened(tmp_path, overwrite=True, **changes) as file:
        assert file.rows == {}


HEADER = json.dumps({"unfinished call": CALL}) + "\n"


@pytest.mark.parametrize(
    "text",
    [
        *("no JSON\n", "[]\n", '"text"\n', "{}\n", "no end", '{"unfinished call": 1}\n'),
        *(
            HEADER + "[1]\n",
            HEADER + '{"index": 0}\n',
            HEADER + "{\n",
            HEADER + json.dumps(ROWS[0]) + "\n",
        ),
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


def refused(folder, message):
    before = (folder / "a.jsonl.part").read_text()
    with pytest.raises(UserError, match=message) as error, opened(folder):
        pass
    assert "\n" not in str(error.value)
    assert (folder / "a.jsonl.part").read_text() == before


def test_rows_of_two_runs_at_once_are_refused(tmp_path):
    interrupted(tmp_path, (1, 1))
    refused(tmp_path, "is damaged, it answers a prompt twice: name another")


@pytest.mark.parametrize("index", [-1, 1, 3, "0", [0], None, 0.5])
def test_rows_of_other_prompts_are_refused(tmp_path, index):
    row = json.dumps({"index": index} | ROWS[0])
    interrupted(tmp_path, (2,))
    with (tmp_path / "a.jsonl.part").open("a") as file:
        file.write(row + "\n")
    refused(tmp_path, "is damaged, its rows do not fit the prompts: name another")


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


@pytest.mark.parametrize("name", ["chat_template.jinja", "generation_config.json", "config.json"])
def test_what_decides_a_prompt_s_tokens_and_an_answer_s_end_counts_too(tmp_path, name):
    (tmp_path / name).write_text("1")
    first = identify(str(tmp_path))
    (tmp_path / name).write_text("12")
    assert identify(str(tmp_path)) != first


def test_rows_of_another_dtype_are_refused(tmp_path):
    """The default may have changed since: `infer.tune` says what is faster."""
    with contextlib.suppress(KeyboardInterrupt), opened(tmp_path) as file:
        file.made_in("float32")
        file.add({0: ROWS[0]})
        raise KeyboardInterrupt
    with (
        pytest.raises(UserError, match="made in float32, not in bfloat16: add --dtype float32"),
        opened(tmp_path) as file,
    ):
        file.made_in("bfloat16")
    with opened(tmp_path) as file:
        file.made_in("float32")
        file.add({1: ROWS[1], 2: ROWS[2]})
    assert lines(tmp_path / "a.jsonl") == ROWS
