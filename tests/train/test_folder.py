"""Tests train/folder.py: what a --workdir names, and what goes into a bucket and when."""

import os
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import pytest
from etils import epath

from medusa_jax.errors import UserError
from tests.train import saved_states
from tests.train.buckets import a_bucket
from train.distributed import check_shared
from train.folder import Folder, run_path

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def bucket():
    with a_bucket() as bucket:
        yield bucket


def test_local_paths(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert run_path("~/run") == tmp_path / "run"
    assert run_path("runs/tiny") == Path("runs/tiny")
    with Folder(tmp_path / "run") as folder:
        check_shared(folder.path)
        folder.upload()
        folder.fetch("metrics.jsonl")
        assert folder.local == folder.path == tmp_path / "run"
        assert str(folder) == str(tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_pathlib_spoils_no_address(bucket):
    for workdir in ("gs://bucket/a/b", Path("gs://bucket/a/b"), epath.Path("gs://bucket/a/b")):
        assert str(run_path(workdir)) == "gs://bucket/a/b"


@pytest.mark.parametrize(
    ("workdir", "words"),
    [
        ("s3://bucket/run", "in a local folder or in gs://BUCKET/PATH"),
        (Path("s3://bucket/run"), "in a local folder or in gs://BUCKET/PATH"),
        ("gs://", "name a bucket and a folder in it"),
        ("gs://bucket/", "name a bucket and a folder in it"),
    ],
)
def test_other_addresses(workdir, words):
    with pytest.raises(UserError, match=words) as error:
        run_path(workdir)
    assert "\n" not in str(error.value)


WITHOUT_GCSFS = "import sys; sys.modules['gcsfs'] = None; from train.{} import run; run()"


@pytest.mark.parametrize(
    ("command", "flags"),
    [
        ("main", [f"--config={ROOT}/configs/tiny.py", "--config.model=nowhere"]),
        ("export", ["--output=heads"]),
    ],
)
def test_without_the_extra_one_line_says_what_to_install(tmp_path, command, flags):
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_GCSFS.format(command), "--workdir=gs://bucket/run", *flags],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2, done.stderr
    assert "pip install 'medusa-jax[gcs]'" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == []  # no folder called "gs:"


def write(folder: Folder, **contents: str) -> None:
    for name, content in contents.items():
        file = folder.local / name.replace("__", "/").replace("_json", ".json")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)


def test_what_is_uploaded(bucket):
    with Folder("gs://bucket/upload") as folder:
        write(folder, settings_json="1", tensorboard__events="2", hidden_states__train="3")
        folder.upload()
        assert bucket.objects == {
            "upload/settings.json": b"1",
            "upload/tensorboard/events": b"2",
        }
        bucket.written.clear()
        write(folder, tensorboard__events="22")
        folder.upload()
        assert bucket.written == ["upload/tensorboard/events"]
        assert bucket.objects["upload/tensorboard/events"] == b"22"
        bucket.written.clear()
        write(folder, export__config_json="", export__weights="", export__backbone__config_json="")
        write(folder, export__backbone__weights="")
        folder.upload("export")
        names = ["backbone/weights", "backbone/config.json", "weights", "config.json"]
        assert bucket.written == [f"upload/export/{name}" for name in names]
        local = folder.local
    assert not local.exists()


def test_what_is_fetched(bucket):
    bucket.put("fetch/metrics.jsonl", b"{}\n")
    bucket.put("fetch/other", b"x")
    with Folder("gs://bucket/fetch") as folder:
        folder.fetch("metrics.jsonl", "token_map.npy")
        assert [path.name for path in folder.local.iterdir()] == ["metrics.jsonl"]
        assert (folder.local / "metrics.jsonl").read_text() == "{}\n"


def test_a_bucket_that_can_be_written_is_left_as_it_was(bucket):
    before = dict(bucket.objects)
    check_shared(run_path("gs://bucket/shared"))
    assert bucket.objects == before
    assert bucket.written[-1].startswith("shared/")


def test_a_bucket_that_lets_nobody_in(bucket, monkeypatch):
    monkeypatch.setattr(bucket, "refuses", True)
    with Folder("gs://bucket/closed") as folder:
        write(folder, settings_json="1")
        for call in (folder.upload, lambda: folder.fetch("x"), lambda: check_shared(folder.path)):
            with pytest.raises(UserError, match=r"cannot use gs://bucket/closed .*check that the"):
                call()


def test_a_bucket_that_can_be_written_but_not_read(bucket, monkeypatch):
    monkeypatch.setattr(bucket, "refused", {"GET"})
    with pytest.raises(UserError, match="cannot use gs://bucket/half") as error:
        check_shared(run_path("gs://bucket/half"))
    assert "\n" not in str(error.value)


def test_a_bucket_that_closes_during_a_run(bucket, monkeypatch):
    state = {"x": jnp.zeros(3)}
    with saved_states.make("gs://bucket/closing") as checkpoints:
        checkpoints.save(1, state)
        checkpoints.wait()
        with monkeypatch.context() as patch:
            patch.setattr(bucket, "refuses", True)
            with pytest.raises(UserError, match="cannot use gs://bucket/closing") as error:
                checkpoints.restore(state)
    assert "\n" not in str(error.value)


def test_damaged_notes_in_a_bucket_are_not_taken_for_a_closed_one(bucket):
    with saved_states.make("gs://bucket/damaged") as checkpoints:
        checkpoints.save(1, {"x": jnp.zeros(3)})
    bucket.put("damaged/run.json", b"{")
    with pytest.raises(UserError, match=r"gs://bucket/damaged/run\.json cannot be read as JSON"):
        saved_states.make("gs://bucket/damaged")
