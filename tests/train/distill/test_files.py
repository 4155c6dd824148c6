"""The growing file: nothing lost, nothing twice, no settings mixed."""

import json
from pathlib import Path

import pytest

from medusa_jax.errors import UserError
from train.distill.files import append_rows, read_done, shard_path

SETTINGS = {"model": None, "temperature": 0.3}
ROWS = [{"id": "a", "text": "one\u2028line"}, {"id": "b", "text": "Grüße"}]


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "replies.jsonl"
    with append_rows(path, SETTINGS) as add:
        add(ROWS[:1])
        add(ROWS[1:])
    return path


def test_rows_are_found_again(path):
    assert [json.loads(line) for line in path.read_text().splitlines()] == ROWS
    assert read_done(path, SETTINGS) == {"a", "b"}
    assert read_done(path.with_name("other.jsonl"), SETTINGS) == set()


def test_every_row_is_on_disk_before_the_next(tmp_path):
    path = tmp_path / "replies.jsonl"
    with append_rows(path, SETTINGS) as add:
        add(ROWS[:1])
        assert read_done(path, SETTINGS) == {"a"}


@pytest.mark.parametrize("kept", [1, 20, -1])
def test_a_half_written_row_is_cut_off(path, kept):
    whole = path.read_bytes()
    first = whole.index(b"\n") + 1
    path.write_bytes(whole[:first] + whole[first:][:kept])
    assert read_done(path, SETTINGS) == {"a"}
    with append_rows(path, SETTINGS) as add:
        add(ROWS[1:])
    assert path.read_bytes() == whole


def test_other_settings_are_refused_and_nothing_changes(path):
    before = path.read_bytes()
    for changed in ({"temperature": 0.0}, {"model": "x"}):
        with pytest.raises(UserError, match=f"was made with {next(iter(changed))}"):
            read_done(path, SETTINGS | changed)
    assert path.read_bytes() == before


def test_files_of_other_origin_are_refused(path):
    path.write_text("no JSON\n")
    with pytest.raises(UserError, match="cannot continue"):
        read_done(path, SETTINGS)
    path.with_name(path.name + ".meta.json").unlink()
    with pytest.raises(UserError, match=r"meta\.json"):
        read_done(path, SETTINGS)


def test_shards_have_names_of_their_own():
    assert shard_path("out/replies.jsonl", 0, 1) == Path("out/replies.jsonl")
    assert shard_path("out/replies.jsonl", 2, 4) == Path("out/replies-00002-of-00004.jsonl")
