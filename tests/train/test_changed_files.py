"""A run is not resumed on files that have changed since, though their names have not."""

import shutil

import numpy as np
from safetensors.numpy import load_file, save_file

from tests.train.small_runs import LORA, make, refused, stopped_after, write_data
from train.data import inputs


def test_files_that_have_changed_since(model, tmp_path, monkeypatch):
    """The names in the settings are the same."""
    data, tree = write_data(tmp_path / "data.jsonl"), tmp_path / "tree.json"
    tree.write_text("[[0], [1]]")
    changes = {"draft_vocab": 40, "own_projection": False, "export_format": "C"}
    settings = make(model, data, tree=str(tree), **changes)
    stopped_after(2, settings, tmp_path / "run")
    tree.write_text("[[0], [2]]")
    assert "holds a run with tree's content = " in refused(settings, tmp_path / "run")
    tree.write_text("[[1], [0]]")  # the same tree
    with monkeypatch.context() as patch:
        patch.setattr(inputs, "draft_vocabulary", lambda *_: np.arange(9, dtype=np.int32))
        assert "with draft_vocab's content = " in refused(settings, tmp_path / "run")
    write_data(tmp_path / "data.jsonl", rows=41)
    assert "holds a run with content of data = " in refused(settings, tmp_path / "run")


def test_another_chat_template(model, data, tmp_path):
    """Rows have other lengths then, and a place in the data means other rows."""
    folder = shutil.copytree(model, tmp_path / "model")
    settings = make(str(folder), data)
    stopped_after(2, settings, tmp_path / "run")
    template = folder / "chat_template.jinja"
    template.write_text("Today is another day. " + template.read_text())
    assert "holds a run with tokens of data = " in refused(settings, tmp_path / "run")


def test_another_model_of_the_same_name(model, data, tmp_path):
    folder = shutil.copytree(model, tmp_path / "model")
    settings = make(str(folder), data, **LORA)
    stopped_after(2, settings, tmp_path / "run")
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"] = weights["model.norm.weight"] + np.float32(1)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    assert "holds a run with content of model = " in refused(settings, tmp_path / "run")
