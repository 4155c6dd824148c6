"""The growing parts and the file that they become: nothing lost, nothing twice, nothing mixed."""

import json

import pytest

from medusa_jax.errors import UserError
from train.distill.files import append_rows, join, part_path, read_rows

SETTINGS = {"model": None, "temperature": 0.3}
ROWS = [{"id": "a", "text": "one\u2028line"}, {"id": "b", "text": "Grüße"}]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "replies.jsonl"


def add_to_part(path, rows, index=0, count=1, settings=SETTINGS):
    part = part_path(path, index, count)
    with append_rows(path, part, settings) as add:
        for row in rows:
            add([row])
    return part


def names(path, settings=SETTINGS):
    return set(read_rows(path, settings))


def test_rows_are_found_again(path):
    part = add_to_part(path, ROWS)
    assert [json.loads(line) for line in part.read_text().splitlines()] == ROWS
    assert names(path) == {"a", "b"}
    assert names(path.with_name("other.jsonl")) == set()


def test_every_row_is_on_disk_before_the_next(path):
    with append_rows(path, part_path(path, 0, 1), SETTINGS) as add:
        add(ROWS[:1])
        assert names(path) == {"a"}


@pytest.mark.parametrize("kept", [1, 20, -1])
def test_a_half_written_row_is_cut_off(path, kept):
    part = add_to_part(path, ROWS)
    whole = part.read_bytes()
    first = whole.index(b"\n") + 1
    part.write_bytes(whole[:first] + whole[first:][:kept])
    assert names(path) == {"a"}
    assert add_to_part(path, ROWS[1:]).read_bytes() == whole


def test_half_a_row_binds_nobody_to_its_settings(path):
    """Or rows would come under settings that they were not made with."""
    add_to_part(path, []).write_bytes(b'{"id": "c"')
    part = part_path(path, 0, 1)
    other = SETTINGS | {"temperature": 0.0}
    with append_rows(path, part, other) as add:
        add(ROWS[:1])
    assert names(path, other) == {"a"}
    with pytest.raises(UserError, match="temperature"):
        names(path)


def test_the_file_is_joined_when_all_rows_are_there_whoever_made_them(path):
    """Two processes were killed, three go on; one of the five parts ends in half a row."""
    killed = add_to_part(path, ROWS[1:], 0, 2)
    killed.write_bytes(killed.read_bytes() + b'{"id": "c"')
    assert join(path, SETTINGS, "abc", "abc") == 2
    add_to_part(path, [], 1, 2)
    add_to_part(path, ROWS[:1], 2, 3)
    assert join(path, SETTINGS, "abc", "abc") == 1
    assert not path.exists()
    add_to_part(path, [{"id": "c"}], 0, 3)
    assert join(path, SETTINGS, "cabz", "abc") == 0
    assert [json.loads(line) for line in path.read_text().splitlines()] == [{"id": "c"}, *ROWS]
    assert sorted(x.name for x in path.parent.iterdir()) == [path.name, path.name + ".meta.json"]


def test_a_file_that_is_there_is_extended_and_never_shortened(path):
    add_to_part(path, ROWS)
    join(path, SETTINGS, "abc", "ab")
    before = path.read_bytes()
    add_to_part(path, [{"id": "c"}])
    assert names(path) == {"a", "b", "c"}
    join(path, SETTINGS, "abc", "b")
    assert path.read_bytes() == before + b'{"id": "c"}\n'


def test_other_settings_are_refused_and_nothing_changes(path):
    part = add_to_part(path, ROWS)
    before = part.read_bytes()
    for changed in ({"temperature": 0.0}, {"model": "x"}):
        with pytest.raises(UserError, match=f"was made with {next(iter(changed))}"):
            read_rows(path, SETTINGS | changed)
    assert part.read_bytes() == before


def test_settings_that_are_not_known_yet_are_not_compared(path):
    add_to_part(path, ROWS, settings=SETTINGS | {"dtype": "float32"})
    assert names(path, SETTINGS) == {"a", "b"}
    with pytest.raises(UserError, match="was made with dtype"):
        read_rows(path, SETTINGS | {"dtype": "bfloat16"})


def test_settings_of_a_run_without_rows_are_forgotten(path):
    part = add_to_part(path, [])
    with append_rows(path, part, SETTINGS | {"model": "x"}) as add:
        add(ROWS)
    assert names(path, SETTINGS | {"model": "x"}) == {"a", "b"}


def test_files_of_other_origin_are_refused(path):
    path.write_text("no JSON\n")
    with pytest.raises(UserError, match="cannot continue"):
        read_rows(path, SETTINGS)
    path.write_text('{"id": "a"}\n')
    with pytest.raises(UserError, match=r"meta\.json"):
        read_rows(path, SETTINGS)


def test_damaged_settings_are_one_line(path):
    add_to_part(path, ROWS)
    path.with_name(path.name + ".meta.json").write_text('{"model":')
    with pytest.raises(UserError, match=r"meta.json cannot be read as JSON .*: remove it"):
        names(path)
