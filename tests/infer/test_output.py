import json
import os

import pytest

from infer.output import check_output, write_rows
from medusa_jax import UserError

ROWS = [{"text": "a\u2028b\nc", "n": 1}, {"text": "ä😀", "n": 2}]


def test_one_row_per_line_for_every_reader(tmp_path):
    path = check_output(tmp_path / "a.jsonl")
    write_rows(path, ROWS)
    assert [json.loads(line) for line in path.read_text().splitlines()] == ROWS


def test_checking_leaves_everything_as_it_was(tmp_path):
    old = tmp_path / "old.jsonl"
    old.write_text("old")
    assert check_output(old) == old.resolve()
    check_output(tmp_path / "new.jsonl")
    assert [file.name for file in tmp_path.iterdir()] == ["old.jsonl"]
    assert old.read_text() == "old"


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


def test_a_folder_that_vanished_meanwhile_is_one_line(tmp_path):
    (tmp_path / "folder").mkdir()
    path = check_output(tmp_path / "folder" / "a.jsonl")
    (tmp_path / "folder").rmdir()
    with pytest.raises(UserError, match="No such file or directory"):
        write_rows(path, ROWS)


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path, monkeypatch):
    path = check_output(tmp_path / "a.jsonl")

    def replace(source, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(UserError, match="No space left on device"):
        write_rows(path, ROWS)
    assert list(tmp_path.iterdir()) == []


def test_a_link_is_followed(tmp_path):
    target = tmp_path / "target.jsonl"
    target.write_text("old")
    link = tmp_path / "link.jsonl"
    link.symlink_to(target)
    write_rows(check_output(link), ROWS)
    assert link.is_symlink()
    assert len(target.read_text().splitlines()) == 2


def test_the_file_gets_the_usual_mode(tmp_path):
    (tmp_path / "usual").touch()
    path = check_output(tmp_path / "a.jsonl")
    write_rows(path, ROWS)
    assert path.stat().st_mode == (tmp_path / "usual").stat().st_mode


@pytest.mark.parametrize("name", ["none/a.jsonl", ".", "file/a.jsonl", "loop", "pipe", "x" * 300])
def test_a_path_that_cannot_be_written_is_refused(tmp_path, name):
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match="cannot write"):
        check_output(tmp_path / name)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everything")
def test_a_read_only_file_or_folder_is_refused(tmp_path):
    path = tmp_path / "a.jsonl"
    path.touch(mode=0o400)
    with pytest.raises(UserError, match="read-only"):
        check_output(path)
    tmp_path.chmod(0o500)
    with pytest.raises(UserError, match="Permission denied"):
        check_output(tmp_path / "b.jsonl")
