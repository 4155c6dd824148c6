"""Tests train/fingerprint.py: whose folder it is, and what may change when a run goes on."""

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


def test_what_may_change(tmp_path):
    """Free keys, also those that an earlier version noted and compared."""
    with make(tmp_path) as checkpoints:
        checkpoints.save(1, {"x": jnp.zeros(())})
    make(tmp_path, fingerprint=FINGERPRINT | {"num_heads": 5}, free=("num_heads",)).close()
    fewer = {key: value for key, value in FINGERPRINT.items() if key != "lora"}
    make(tmp_path, fingerprint=fewer, free=("lora",)).close()
    other = FINGERPRINT | {"num_heads": 5, "model": "other"}
    message = refused(lambda: make(tmp_path, fingerprint=other, free=("num_heads",)))
    assert "model = 'tiny', this one has 'other'" in message


def test_what_earlier_versions_did_not_note(tmp_path):
    """A missing key is taken as it is found, once."""
    with make(tmp_path) as checkpoints:
        checkpoints.save(1, {"x": jnp.zeros(())})
    new = FINGERPRINT | {"tree": "a"}
    make(tmp_path, fingerprint=new, added=("tree",)).close()
    assert json.loads((tmp_path / "run.json").read_text()) == new
    other = FINGERPRINT | {"tree": "b"}
    message = refused(lambda: make(tmp_path, fingerprint=other, added=("tree",)))
    assert "tree = 'a', this one has 'b'" in message


def test_what_earlier_versions_called_otherwise(tmp_path):
    with make(tmp_path, fingerprint={"soft_labels": True}) as checkpoints:
        checkpoints.save(1, {"x": jnp.zeros(())})
    make(tmp_path, fingerprint={"head_labels": "distribution"}).close()
    message = refused(lambda: make(tmp_path, fingerprint={"head_labels": "tokens"}))
    assert "head_labels = 'distribution', this one has 'tokens'" in message


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
