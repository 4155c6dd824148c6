"""Tests train/fingerprint.py: whose folder it is."""

import json

import jax.numpy as jnp
import pytest

from tests.train.saved_states import FINGERPRINT, make, refused


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"num_heads": 5}, "num_heads = 4, this one has 5"),
        ({"lora": {"rank": 0}}, "lora.rank = 8, this one has 0"),
        ({"seeds": [1]}, "seeds = [1, 2], this one has [1]"),
        ({"new": "x"}, "new = None, this one has 'x'"),
    ],
)
def test_folder_of_another_run(tmp_path, change, words):
    with make(tmp_path) as checkpoints:
        checkpoints.save(1, {"x": jnp.zeros(())})
    before = (tmp_path / "run.json").read_bytes()
    message = refused(lambda: make(tmp_path, fingerprint=FINGERPRINT | change))
    assert words in message
    assert "--workdir" in message
    assert (tmp_path / "run.json").read_bytes() == before


def test_folder_of_a_run_without_a_checkpoint(tmp_path):
    """It ended before there was anything to resume from: other settings are welcome."""
    make(tmp_path).close()
    with make(tmp_path, fingerprint={"x": 1}) as checkpoints:
        checkpoints.save(1, {"x": jnp.zeros(())})
    assert json.loads((tmp_path / "run.json").read_text()) == {"x": 1}
    assert "holds a run with" in refused(lambda: make(tmp_path))


def test_folder_of_an_unknown_run(tmp_path):
    (tmp_path / "checkpoints" / "3").mkdir(parents=True)
    assert "unknown run" in refused(lambda: make(tmp_path))
    assert not (tmp_path / "run.json").exists()


@pytest.mark.parametrize("content", [b'{"a": ', b"[]", b"\xff"])
def test_folder_of_a_run_whose_notes_are_damaged(tmp_path, content):
    with make(tmp_path) as checkpoints:
        checkpoints.save(1, {"x": jnp.zeros(())})
    (tmp_path / "run.json").write_bytes(content)
    message = refused(lambda: make(tmp_path))
    assert "run.json" in message
    assert "choose another --workdir" in message
    assert "download" not in message
