"""Tests train/distributed.py, and checkpoints and interruption, with two real processes (gloo)."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from medusa_jax.errors import UserError
from medusa_jax.mesh import make_mesh
from tests.train.processes import free_port, outputs_of
from tests.train.small_runs import CACHED, make
from tests.train.two_processes import ROWS
from train import distributed
from train.checkpoints import read_params
from train.run import check_processes

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def workdir(tmp_path_factory) -> Path:
    """Folder in which two processes have trained, stopped, saved and restored."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "file").write_text("")
    port = free_port()
    command = [sys.executable, "-m", "tests.train.two_processes"]
    processes = [
        subprocess.Popen(
            [*command, str(i), str(port), str(folder)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for i in range(2)
    ]
    outputs_of(processes, seconds=120)
    return folder


@pytest.fixture(scope="module")
def reports(workdir) -> list[dict]:
    return [json.loads((workdir / f"report_{i}.json").read_text()) for i in range(2)]


def test_sum_over_both(reports):
    assert [report["sum"] for report in reports] == [18.0, 18.0]
    assert [report["first"] for report in reports] == [True, False]


def test_who_reads_which_rows(reports):
    assert [report["parts"] for report in reports] == [[[0, 1], [0, 2]], [[0, 1], [1, 2]]]


def test_each_reads_only_its_rows_of_a_file(reports):
    assert [report["placed"]["rows"] for report in reports] == [[[0, 4]], [[4, 8]]]
    shards = [values for report in reports for _, values in report["placed"]["shards"]]
    np.testing.assert_array_equal(np.concatenate(shards), ROWS)


def test_a_signal_to_one_stops_both_at_the_same_step(reports):
    steps = [report["step"] for report in reports]
    assert steps[0] == steps[1] < 999
    assert reports[0]["value"] == reports[1]["value"] > 0


def test_both_resume_where_they_were(reports):
    for report in reports:
        assert report["latest"] == report["step"]
        assert report["again"] == report["batches"]
        assert report["same"]
    assert reports[0]["batches"] != reports[1]["batches"]


def test_what_is_refused_at_the_start(workdir, reports):
    found = [report["refusals"] for report in reports]
    for name in ("shared", "same", "again"):
        assert [each[name] for each in found] == ["", ""]
    for number, each in enumerate(found):
        assert f"process 1 does not see what process 0 writes to {workdir}/host_" in each["apart"]
        assert "gs://BUCKET/PATH" in each["apart"]
        assert "cannot write to" in each["read-only"]
        assert "processes 0 and 1 differ in content of data" in each["other data"]
        assert f"process {number} has 'abc{number}'" in each["other data"]
        assert f"differ in config.steps (process {number} has {number})" in each["other steps"]
        assert not any("\n" in message for message in each.values())
    assert not [path.name for path in workdir.rglob("*") if "shared" in path.name]


def test_another_mesh_and_a_single_process_read_it(workdir, reports):
    value = reports[0]["value"]
    for report in reports:
        np.testing.assert_allclose(report["elsewhere"], value, rtol=1e-6)
    mesh = make_mesh(2, 2, 2)
    step, params = read_params(workdir, mesh)
    assert step == reports[0]["step"]
    np.testing.assert_allclose(np.asarray(params["q"]["weight"]), value, rtol=1e-6)
    assert params["q"]["weight"].sharding.spec == P("tensor", "fsdp")


def test_a_single_process_needs_nothing():
    distributed.initialize()  # JAX has been used already, as in a notebook
    distributed.initialize(num_processes=1)
    assert distributed.is_first_process()
    assert distributed.batch_part(make_mesh(2, 2, 2)) == (0, 1)


def test_nothing_in_the_environment_means_one_process():
    code = (
        "from train.distributed import initialize; initialize(); import jax; "
        "print(jax.process_count(), jax.distributed.is_initialized())"
    )
    hints = ("SLURM", "OMPI", "JAX_", "TPU_", "KUBERNETES")
    environment = {key: value for key, value in os.environ.items() if not key.startswith(hints)}
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert run.stdout.split() == ["1", "False"], run.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("localhost:1", None, None), "give all of"),
        ((None, 2, 0), "give all of"),
        (("localhost", 2, 0), "HOST:PORT"),
        (("localhost:1", 2, 2), "count from 0 to 1"),
    ],
)
def test_wrong_flags(arguments, words):
    with pytest.raises(UserError, match=words):
        distributed.initialize(*arguments)


def test_global_batch_of_one_process():
    mesh = make_mesh(2, 2, 2)
    batch = {"token": np.arange(24, dtype=np.int32).reshape(8, 3), "weight": np.ones(8, np.float32)}
    found = distributed.global_batch(mesh, batch)
    assert found["token"].sharding.spec == P(("data", "fsdp"), None)
    jax.tree.map(np.testing.assert_array_equal, found, batch)


def test_several_processes_do_not_cache_hidden_states_in_a_bucket(monkeypatch, tmp_path):
    """Each would have a temporary folder of its own."""
    settings = make("model", "data", **CACHED)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    bucket = SimpleNamespace(local=tmp_path, path="gs://bucket/run")
    with pytest.raises(UserError, match=r"hidden_states=cached.* a disk that they share"):
        check_processes(settings, bucket)
    check_processes(settings, SimpleNamespace(local=tmp_path, path=tmp_path))
