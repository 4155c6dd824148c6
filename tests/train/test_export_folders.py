"""Where an export appears: a new folder, whole and at once (train/export_files.py)."""

import jax
import pytest

from medusa_jax.errors import UserError
from train import export_files as exports


def test_exports_at_once_have_scratch_folders_of_their_own(tmp_path, monkeypatch):
    """Whatever their process numbers, which containers share; only the first one's is made."""
    target = tmp_path / "export"
    with exports._appearing(target) as first:
        (first / "weights").write_text("1")
        monkeypatch.setattr(jax, "process_index", lambda: 1)
        with exports._appearing(target) as second:
            assert not second.exists()
        monkeypatch.undo()
        assert (first / "weights").read_text() == "1"
    assert [path.name for path in target.iterdir()] == ["weights"]
    assert list(tmp_path.iterdir()) == [target]


def test_a_link_and_a_name_that_is_too_long_are_no_new_folders(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "empty")
    with pytest.raises(UserError, match="exists: name a new folder"):
        exports.check_empty(tmp_path / "link")
    with pytest.raises(UserError, match="cannot look at"):
        exports.check_empty(tmp_path / ("x" * 300))
