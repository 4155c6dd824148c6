"""Which model a run's heads belong to."""

import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.train.small_runs import make
from train.folder import Folder
from train.reporting.runs import parse_runs
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
