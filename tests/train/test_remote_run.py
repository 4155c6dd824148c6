"""A whole run in a bucket: stopped, resumed, exported, and equal to one in a local folder."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

import medusa_jax
from medusa_jax.errors import UserError
from medusa_jax.mesh import make_mesh
from tests.train.buckets import a_bucket
from tests.train.small_runs import (
    LORA,
    make,
    rows_of,
    run,
    stop_after,
)
from train.checkpoints import read_params
from train.run import train

ROOT = Path(__file__).parents[2]
ADDRESS = "gs://bucket/runs/one"


@pytest.fixture(scope="module")
def bucket():
    with a_bucket() as bucket:
        yield bucket


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """The current folder."""
    folder = tmp_path_factory.mktemp("here")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield folder


@pytest.fixture(scope="module")
def settings(model, data, here):
    changes = LORA | {"draft_vocab": 40, "own_projection": False, "export_format": "C"}
    return make(model, data, **changes)


@pytest.fixture(scope="module")
def local_rows(settings, small):
    return run(settings, small / "local")


def in_bucket(bucket) -> dict[str, bytes]:
    prefix = ADDRESS.removeprefix("gs://bucket/") + "/"
    return {name.removeprefix(prefix): x for name, x in bucket.objects.items()}


@pytest.fixture(scope="module")
def stopped(settings, bucket):
    """What is in the bucket once SIGTERM has stopped the run in its fourth step."""
    with jax.numpy_dtype_promotion("standard"), stop_after(4):
        train(settings, ADDRESS)
    return in_bucket(bucket)


@pytest.fixture(scope="module")
def finished(settings, stopped, bucket):
    with jax.numpy_dtype_promotion("standard"):
        train(settings, ADDRESS)
    return in_bucket(bucket)


def steps(objects: dict[str, bytes]) -> list[int]:
    names = [name.split("/") for name in objects]
    return sorted({int(parts[1]) for parts in names if parts[0] == "checkpoints"})


def test_a_stopped_run_is_all_there(stopped, local_rows):
    rows = rows_of(stopped["metrics.jsonl"].decode())
    assert rows == local_rows[:4]
    assert steps(stopped) == [3, 4]
    names = {name.split("/")[0] for name in stopped}
    assert names == {
        "checkpoints", "environment.json", "metrics.jsonl", "run.json", "settings.json",
        "tensorboard", "token_map.npy",
    }  # fmt: skip


def test_a_resumed_run_is_as_if_it_had_not_been_stopped(finished, local_rows, here):
    assert rows_of(finished["metrics.jsonl"].decode()) == local_rows
    # config.keep is 2; step 3, the other one that was evaluated, stays if it is the best.
    assert steps(finished) in ([4, 6], [3, 4, 6])
    assert sum(name.startswith("tensorboard/") for name in finished) == 2
    assert list(here.iterdir()) == []


def test_the_export_decodes_where_it_is_downloaded(finished, tmp_path, small, local_rows):
    for name, content in finished.items():
        if name.startswith("export/"):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_bytes(content)
    config = json.loads(finished["export/config.json"])
    assert config["base_model_name_or_path"] == f"{ADDRESS}/export/backbone"
    lm = medusa_jax.load(str(tmp_path / "export"))
    local = medusa_jax.load(str(small / "local" / "export"))
    for name in ("params", "heads_params"):
        jax.tree.map(np.testing.assert_array_equal, getattr(lm, name), getattr(local, name))


def test_a_finished_run_is_left_as_it_is(settings, finished, bucket, capsys):
    with jax.numpy_dtype_promotion("standard"):
        train(settings, ADDRESS)
    assert "export is there already" in capsys.readouterr().out
    after = in_bucket(bucket)
    assert {name: after[name] for name in finished} == finished


def test_the_export_command(finished, tmp_path):
    command = [sys.executable, "-m", "train.export", f"--workdir={ADDRESS}", "--step=4"]
    command += ["--dtype=float32", f"--output={tmp_path / 'out'}"]
    done = subprocess.run(command, cwd=ROOT, env=dict(os.environ), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lm = medusa_jax.load(str(tmp_path / "out"), dtype="float32")
    step, params = read_params(ADDRESS, make_mesh(1), 4)
    assert step == 4
    for name, value in params["heads"].items():
        jax.tree.map(np.testing.assert_array_equal, lm.heads_params[name], value)
    assert lm.heads_config.draft_vocab


def test_an_unreachable_bucket_is_found_before_the_model_is_loaded(small, bucket, monkeypatch):
    monkeypatch.setattr(bucket, "refuses", True)
    settings = make(str(small / "nowhere"), "nowhere.jsonl")
    with pytest.raises(UserError, match="cannot use gs://bucket/elsewhere") as error:
        train(settings, "gs://bucket/elsewhere")
    assert "\n" not in str(error.value)
