"""A checkpoint whose files were cut off: one line, and the one before still counts."""

import shutil

import pytest

from medusa_jax.mesh import make_mesh
from tests.train.saved_states import assert_same, make, refused
from tests.train.test_checkpoints import MESH, make_data, make_state
from train.checkpoints import read_params


@pytest.mark.parametrize("part", ["state", "data"])
def test_a_damaged_checkpoint(tmp_path, part):
    state = make_state()
    with make(tmp_path) as checkpoints:
        checkpoints.save(1, state, make_data())
        checkpoints.save(2, state, make_data(), force=True)
    folder = tmp_path / "checkpoints" / "2"
    pattern = "process_*" if part == "data" else "*"
    files = [path for path in (folder / part).rglob(pattern) if path.is_file()]
    largest = max(files, key=lambda path: path.stat().st_size)
    largest.write_bytes(largest.read_bytes()[: largest.stat().st_size // 2])
    words = f"cannot read the checkpoint {folder}"
    with make(tmp_path) as checkpoints:
        assert words in refused(lambda: checkpoints.restore(state, make_data()))
    if part == "state":
        assert words in refused(lambda: read_params(tmp_path, make_mesh(*MESH)))
    shutil.rmtree(folder)
    with make(tmp_path) as checkpoints:
        assert_same(checkpoints.restore(state, make_data()), state)


@pytest.mark.parametrize("content", ["", '{"score"'])
def test_damaged_metrics_name_the_step(tmp_path, content):
    state = make_state()
    with make(tmp_path) as checkpoints:
        checkpoints.save(1, state, make_data(), score=1.0)
        checkpoints.save(2, state, make_data(), score=2.0, force=True)
    step = tmp_path / "checkpoints" / "2"
    (step / "metrics" / "metrics").write_text(content)
    for call in (lambda: make(tmp_path), lambda: read_params(tmp_path, make_mesh(*MESH))):
        assert f"move {step} away" in refused(call)
    shutil.rmtree(step)
    with make(tmp_path) as checkpoints:
        assert_same(checkpoints.restore(state, make_data()), state)
