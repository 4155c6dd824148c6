"""Which model a run's heads belong to."""

import numpy as np
import pytest
from safetensors.numpy import save_file

from medusa_jax.errors import UserError
from tests.train.small_runs import make
from train.folder import Folder
from train.reporting.runs import base_model, parse_runs
from train.run_files import write_run

HEAD = {"medusa_head.0.0.linear.weight": np.zeros((2, 2), np.float32)}
MODEL = {"model.embed_tokens.weight": np.zeros((4, 2), np.float32)}


@pytest.mark.parametrize("noted", ["A", "B", "none"])
@pytest.mark.parametrize("is_whole", [False, True])
def test_an_export_is_what_it_holds_whatever_the_settings_say(tmp_path, noted, is_whole):
    """It may have been made by hand, in another format."""
    run = tmp_path / "run"
    (run / "export").mkdir(parents=True)
    settings = make("the/model", "data", (1, 1, 1), objective="medusa2", export_format=noted)
    write_run(Folder(run), settings)
    if is_whole:
        save_file(MODEL | HEAD, run / "export" / "model.safetensors")
    else:
        save_file(HEAD, run / "export" / "medusa_lm_head.safetensors")
    (found,) = parse_runs([f"x={run}"])
    export = str(run / "export")
    assert found.exports == ((export if is_whole else "the/model", export),)


def test_a_run_that_is_not_finished_is_refused(tmp_path):
    write_run(Folder(tmp_path), make("the/model", "data"))
    with pytest.raises(UserError, match="export is missing: finish the run"):
        parse_runs([f"x={tmp_path}"])


def test_runs_that_started_from_different_models_are_refused(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name / "export").mkdir(parents=True)
        write_run(Folder(tmp_path / name), make(f"model/{name}", "data"))
    runs = parse_runs([str(tmp_path / name) for name in ("a", "b")])
    assert base_model(runs[:1]) == "model/a"
    with pytest.raises(UserError, match=r"different models .*model/[ab], model/[ab]"):
        base_model(runs)
