"""`--output`: one row per line, all of them or none."""

import json

import pytest

from infer.row_file import write_rows
from medusa_jax.io.atomic import check_output

ROWS = [{"text": "a\u2028b\nc", "n": 1}, {"text": "ä😀", "n": 2}]


def test_one_row_per_line_for_every_reader(tmp_path):
    path = check_output(tmp_path / "a.jsonl")
    write_rows(path, ROWS)
    assert [json.loads(line) for line in path.read_text().splitlines()] == ROWS


def test_an_error_keeps_the_old_file_and_leaves_no_other(tmp_path):
    path = check_output(tmp_path / "a.jsonl")
    path.write_text("old")

    def rows():
        yield ROWS[0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_rows(path, rows())
    assert [file.name for file in tmp_path.iterdir()] == ["a.jsonl"]
    assert path.read_text() == "old"
