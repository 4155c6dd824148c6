"""Tests train/run_files.py: settings and draft vocabulary as a folder keeps them."""

import io
import json

import numpy as np
import pytest

from medusa_jax.errors import UserError
from tests.train.buckets import a_bucket
from tests.train.exports import TOKEN_MAP, recipe
from train.folder import Folder
from train.run_files import read_run, write_run


def test_what_is_noted_is_read(tmp_path):
    settings = recipe(own_projection=False, draft_vocab=5, export_format="C")
    write_run(Folder(tmp_path), settings)
    assert read_run(tmp_path) == (settings, None)
    write_run(Folder(tmp_path), settings, TOKEN_MAP)
    read, token_map = read_run(str(tmp_path))
    assert read == settings
    np.testing.assert_array_equal(token_map, TOKEN_MAP)
    names = ["environment.json", "settings.json", "token_map.npy"]
    assert sorted(x.name for x in tmp_path.iterdir()) == names
    about = json.loads((tmp_path / "environment.json").read_text())
    assert about["command"].startswith("python -m train.main")
    assert about["versions"]["jax"]


def test_a_run_that_goes_on_keeps_where_it_began(tmp_path):
    write_run(Folder(tmp_path), recipe())
    (tmp_path / "environment.json").write_text("{}")
    write_run(Folder(tmp_path), recipe(), is_new=False)
    assert (tmp_path / "environment.json").read_text() == "{}"
    write_run(Folder(tmp_path), recipe())
    assert (tmp_path / "environment.json").read_text() != "{}"


def test_an_earlier_runs_draft_vocabulary_is_removed(tmp_path):
    write_run(Folder(tmp_path), recipe(), TOKEN_MAP)
    write_run(Folder(tmp_path), recipe())
    assert read_run(tmp_path) == (recipe(), None)


def test_an_earlier_runs_draft_vocabulary_is_removed_from_a_bucket():
    stale = io.BytesIO()
    np.save(stale, TOKEN_MAP)
    with a_bucket() as bucket, Folder("gs://bucket/run") as folder:
        bucket.put("run/token_map.npy", stale.getvalue())
        write_run(folder, recipe())
        folder.upload()
        assert sorted(bucket.objects) == ["run/environment.json", "run/settings.json"]
        assert read_run("gs://bucket/run") == (recipe(), None)


def test_the_home_folder_is_found(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write_run(Folder(tmp_path), recipe())
    assert read_run("~") == (recipe(), None)


def test_folders_without_a_run(tmp_path):
    with pytest.raises(UserError, match="holds no run"):
        read_run(tmp_path)
    write_run(Folder(tmp_path), recipe(), TOKEN_MAP)
    (tmp_path / "token_map.npy").write_bytes(b"junk")
    with pytest.raises(UserError, match=r"token_map\.npy cannot be read"):
        read_run(tmp_path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"steps": 1', r"cannot be read as JSON \(.*\): rerun the run's own command"),
        ("[1]", "does not hold a JSON object: rerun the run's own command"),
        ('{"steps": 1}', "config."),
    ],
)
def test_damaged_settings_name_their_file(tmp_path, content, words):
    (tmp_path / "settings.json").write_text(content)
    with pytest.raises(UserError, match=f"^{tmp_path}/settings.json:? {words}") as error:
        read_run(tmp_path)
    assert "download" not in str(error.value)


def test_a_run_is_read_where_the_file_of_its_tree_is_gone(tmp_path):
    tree = tmp_path / "tree.json"
    tree.write_text("[[0], [1]]")
    settings = recipe(tree=str(tree))
    write_run(Folder(tmp_path), settings)
    tree.unlink()
    assert read_run(tmp_path) == (settings, None)
