"""Files that appear complete or not at all, and paths that are refused before any work is done."""

import os

import pytest

from medusa_jax import UserError
from medusa_jax.io.atomic import check_output, write_text


def test_checking_leaves_everything_as_it_was(tmp_path):
    old = tmp_path / "old.json"
    old.write_text("old")
    assert check_output(old) == old.resolve()
    check_output(tmp_path / "new.json")
    assert [file.name for file in tmp_path.iterdir()] == ["old.json"]
    assert old.read_text() == "old"


def test_a_file_is_replaced(tmp_path):
    path = check_output(tmp_path / "a.json")
    write_text(path, "one")
    write_text(path, "twö")
    assert path.read_text(encoding="utf-8") == "twö"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_vanished_meanwhile_is_one_line(tmp_path):
    (tmp_path / "folder").mkdir()
    path = check_output(tmp_path / "folder" / "a.json")
    (tmp_path / "folder").rmdir()
    with pytest.raises(UserError, match="No such file or directory"):
        write_text(path, "text")


def test_a_full_disk_is_one_line_and_keeps_the_old_file(tmp_path, monkeypatch):
    path = check_output(tmp_path / "a.json")
    path.write_text("old")

    def replace(source, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(UserError, match="No space left on device"):
        write_text(path, "text")
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_text() == "old"


def test_a_link_is_followed(tmp_path):
    target = tmp_path / "target.json"
    target.write_text("old")
    link = tmp_path / "link.json"
    link.symlink_to(target)
    write_text(check_output(link), "new")
    assert link.is_symlink()
    assert target.read_text() == "new"


def test_the_file_gets_the_usual_mode(tmp_path):
    (tmp_path / "usual").touch()
    path = check_output(tmp_path / "a.json")
    write_text(path, "text")
    assert path.stat().st_mode == (tmp_path / "usual").stat().st_mode


@pytest.mark.parametrize("name", ["none/a.json", ".", "file/a.json", "loop", "pipe", "x" * 300])
def test_a_path_that_cannot_be_written_is_refused(tmp_path, name):
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match="cannot write"):
        check_output(tmp_path / name)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everything")
def test_a_read_only_file_or_folder_is_refused(tmp_path):
    path = tmp_path / "a.json"
    path.touch(mode=0o400)
    with pytest.raises(UserError, match="read-only"):
        check_output(path)
    tmp_path.chmod(0o500)
    with pytest.raises(UserError, match="Permission denied"):
        check_output(tmp_path / "b.json")
