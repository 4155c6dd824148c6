"""Tests train/run_files.py: settings and draft vocabulary as a folder keeps them."""

import numpy as np
import pytest

from medusa_jax.errors import UserError
from tests.train.exports import TOKEN_MAP, recipe
from train.run_files import read_run, write_run


def test_what_is_noted_is_read(tmp_path):
    settings = recipe(own_projection=False, draft_vocab=5, export_format="C")
    write_run(tmp_path, settings)
    assert read_run(tmp_path) == (settings, None)
    write_run(tmp_path, settings, TOKEN_MAP)
    read, token_map = read_run(str(tmp_path))
    assert read == settings
    np.testing.assert_array_equal(token_map, TOKEN_MAP)
    assert sorted(x.name for x in tmp_path.iterdir()) == ["settings.json", "token_map.npy"]


def test_the_home_folder_is_found(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write_run(tmp_path, recipe())
    assert read_run("~") == (recipe(), None)


def test_folders_without_a_run(tmp_path):
    with pytest.raises(UserError, match="holds no run"):
        read_run(tmp_path)
    write_run(tmp_path, recipe(), TOKEN_MAP)
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
