"""JSON files that are damaged, missing or hold something else."""

import pytest

from medusa_jax.errors import UserError
from medusa_jax.io.json_file import read_json


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "config.json cannot be read as JSON .*: download it again"),
        ("[" * 100_000, "config.json cannot be read as JSON"),
        ("[1]", "config.json does not hold a JSON object: download it again"),
        (None, "config.json is missing: pass a complete Hugging Face model folder"),
    ],
)
def test_what_is_wrong_with_a_file(tmp_path, content, words):
    path = tmp_path / "config.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError, match=words):
        read_json(path)


@pytest.mark.parametrize("content", ["{", "[1]"])
def test_a_copy_is_called_by_the_original_s_name(tmp_path, content):
    path = tmp_path / "copy.json"
    path.write_text(content)
    with pytest.raises(UserError, match=r"^original .*: restore it$"):
        read_json(path, "restore it", name="original")
