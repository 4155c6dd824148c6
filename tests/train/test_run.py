"""Whole training runs: what they log, how they are resumed, and what comes out."""

import dataclasses
import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import medusa_jax
from medusa_jax.errors import UserError
from medusa_jax.mesh import make_mesh
from tests.commands import quick, run_many
from tests.train.small_runs import (
    CACHED,
    LORA,
    greedy,
    logged,
    make,
    refused,
    run,
    stopped_after,
    write_data,
)
from train.checkpoints import read_params
from train.data import inputs
from train.export_files import export_run
from train.run import train

ROOT = Path(__file__).parents[2]


RECIPES = {"medusa2_lora": LORA, "medusa1_cached": CACHED | {"export_format": "A"}}


@pytest.fixture(scope="module")
def finished(model, data, tmp_path_factory):
    """Settings and folder of a run that nothing stopped, by recipe."""
    runs = {}

    def of(recipe: str):
        if recipe not in runs:
            settings = make(model, data, **RECIPES[recipe])
            workdir = tmp_path_factory.mktemp(recipe) / "run"
            run(settings, workdir)
            runs[recipe] = settings, workdir
        return runs[recipe]

    return of


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("recipe", "base", "group"),
    [("medusa2_lora", "lm_loss", "lora"), ("medusa1_cached", "head_loss", "heads")],
)
def test_what_a_run_logs(finished, recipe, base, group):
    _, workdir = finished(recipe)
    rows = logged(workdir)
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    clock = ("tokens_per_second", "tokens_per_second_per_device", "seconds_per_step")
    for line in (workdir / "metrics.jsonl").read_text().splitlines():
        assert all(json.loads(line)[name] > 0 for name in (*clock, "input_wait_seconds"))
    for row in rows:
        for name in ("head_loss", "head_top1", "head_top5"):
            assert len(row[name]) == 4
        assert row["loss"] == row["loss_max"] > 0
        assert row["accepted"] >= 1
        assert row["learning_rate_heads"] == pytest.approx(2 * row["learning_rate"])
        assert row[f"grad_norm/{group}"] > 0
        assert (f"held_out/{base}" in row) == (row["step"] in (3, 6))
    assert rows[5][f"held_out/{base}"] != rows[2][f"held_out/{base}"]
    assert any((workdir / "tensorboard").iterdir())
    assert sorted(path.name for path in (workdir / "checkpoints").iterdir()) == ["3", "6"]


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_resumed_run_is_as_if_it_had_not_been_stopped(finished, tmp_path, recipe):
    settings, workdir = finished(recipe)
    stopped_after(4, settings, tmp_path / "run")
    # What may change; and the trace's first step is over.
    rows = run(dataclasses.replace(settings, profile="2:5", keep=3), tmp_path / "run")
    assert rows == logged(workdir)


def test_the_best_is_kept_though_no_checkpoint_is_due(model, data, tmp_path):
    settings = make(model, data, steps=4, eval_every=2, save_every=4, learning_rate=3e-2, keep=1)
    run(settings, tmp_path / "run")
    assert sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir())[-1] == "4"
    speeds = {row["step"]: row.get("held_out/accepted") for row in logged(tmp_path / "run")}
    best = max((2, 4), key=speeds.__getitem__)
    kept = {path.name for path in (tmp_path / "run" / "checkpoints").iterdir()}
    assert kept == {str(best), "4"}


def test_a_trace_that_the_run_does_not_outlast(model, data, tmp_path):
    settings = make(model, data, steps=3, profile="2:3")
    stopped_after(2, settings, tmp_path / "run")
    assert list((tmp_path / "run" / "profile").rglob("*.xplane.pb"))


def test_on_another_mesh(finished, tmp_path):
    settings, workdir = finished("medusa1_cached")
    stopped_after(3, settings, tmp_path / "run")
    mesh = dataclasses.replace(settings.mesh, data=2, fsdp=2, tensor=2)
    rows = run(dataclasses.replace(settings, mesh=mesh), tmp_path / "run")
    for row, expected in zip(rows, logged(workdir), strict=True):
        np.testing.assert_allclose(row["loss"], expected["loss"], rtol=1e-5)
        np.testing.assert_allclose(row["head_loss"], expected["head_loss"], rtol=1e-5)


def test_resumed_in_less_memory(model, data, tmp_path):
    """Parts of a batch, devices and recomputation: none of them changes the result."""
    settings = make(model, data, objective="medusa2", export_format="none")
    whole = run(settings, tmp_path / "whole")
    stopped_after(3, settings, tmp_path / "run")
    mesh = dataclasses.replace(settings.mesh, data=2)
    layout = {"accumulate": 2, "remat": "nothing", "mesh": mesh}
    rows = run(dataclasses.replace(settings, **layout), tmp_path / "run")
    assert len(rows) == len(whole) == 6
    for row, expected in zip(rows, whole, strict=True):
        for name in expected.keys() & {"loss", "head_loss", "lm_loss", "held_out/lm_loss"}:
            np.testing.assert_allclose(row[name], expected[name], rtol=2e-5, err_msg=name)


def test_a_finished_run_is_left_as_it_is(finished, capsys):
    settings, workdir = finished("medusa2_lora")
    before = contents(workdir)
    run(settings, workdir)
    after = contents(workdir)
    assert {path: after[path] for path in before} == before
    assert "is there already" in capsys.readouterr().out


def test_the_export_of_a_run_whose_checkpoints_are_gone(finished, tmp_path):
    settings, workdir = finished("medusa2_lora")
    shutil.copytree(workdir / "export", tmp_path / "run" / "export")
    with pytest.raises(UserError, match="holds the export of an earlier run"):
        run(dataclasses.replace(settings, seed=3), tmp_path / "run")
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["export"]


def test_the_folder_of_another_run(finished, data, tmp_path):
    settings, workdir = finished("medusa2_lora")
    before = contents(workdir)
    other = write_data(tmp_path / "other.jsonl")
    changes = {"num_heads": 5, "data": other, "steps": 9, "objective": "self_distill"}
    changes["tree"] = "chain:2"  # what its checkpoints are scored by
    for key, value in changes.items():
        message = refused(dataclasses.replace(settings, **{key: value}), workdir)
        assert f"holds a run with {key} = {getattr(settings, key)!r}" in message
        assert "choose another --workdir" in message
    assert contents(workdir) == before


def test_the_length_is_said_before_the_backbone_runs_over_the_data(
    model, data, tmp_path, monkeypatch, capsys
):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(inputs, "cached", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(make(model, data, **CACHED), tmp_path / "run")
    assert "6 steps of 256 hidden states = " in capsys.readouterr().out


def test_bad_input_writes_nothing(finished, model, data, tmp_path):
    bad_row = tmp_path / "bad.jsonl"
    bad_row.write_text(Path(data).read_text() + "{\n")
    heads = str(finished("medusa1_cached")[1] / "export")
    cases = {
        "does not exist": {"model": str(tmp_path / "nowhere")},
        # Seen before the model is loaded, or looked for.
        "nowhere.jsonl: there is no such file": {
            "model": str(tmp_path / "nowhere"),
            "data": str(tmp_path / "nowhere.jsonl"),
        },
        "bad.jsonl:41": {"data": str(bad_row)},
        "cannot be divided among 8 devices": {"mesh": (8, 1, 1)},
        "needs 3 devices, there are 8": {"mesh": (3, 1, 1)},
        "num_layers 1, the configuration asks for 2": {"medusa": heads, "num_layers": 2},
        "config.seq_len=256 or less": {"seq_len": 257},
    }
    for words, changes in cases.items():
        settings = make(**({"model": model, "data": data} | changes))
        assert words in refused(settings, tmp_path / "run")
        assert not (tmp_path / "run").exists()


def test_a_loss_that_is_not_finite(model, data, tmp_path):
    settings = make(model, data, learning_rate=1e30, save_every=6, eval_every=6, **LORA)
    message = refused(settings, tmp_path / "run")
    step = int(message.partition(" at step ")[2].partition(":")[0])
    assert step > 1
    assert f"checkpoint {step - 1} is kept" in message
    assert "lower config.learning_rate" in message
    assert [row["step"] for row in logged(tmp_path / "run")] == [*range(1, step)]
    last, params = read_params(tmp_path / "run", make_mesh(1))
    assert last == step - 1
    assert params.keys() == {"heads", "lora"}
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(params))
    assert not (tmp_path / "run" / "export").exists()
    # The batch that did it comes again.
    assert refused(settings, tmp_path / "run") == message


def test_medusa1_leaves_the_backbone_as_it_was(finished, model, tmp_path):
    settings, workdir = finished("medusa1_cached")
    step, params = read_params(workdir, make_mesh(1))
    assert step == 6
    assert params.keys() == {"heads"}
    export_run(tmp_path / "export", settings, params, format="B")
    before = medusa_jax.load(model, "none").params
    after = medusa_jax.load(str(tmp_path / "export")).params
    same = jax.tree.map(np.array_equal, before, {name: after[name] for name in before})
    assert all(jax.tree.leaves(same))


def test_the_whole_model_in_one_folder_decodes(finished):
    lm = medusa_jax.load(str(finished("medusa2_lora")[1] / "export"))
    medusa, plain = greedy(lm, "mc_sim_7b_63"), greedy(lm, "chain:0")
    assert medusa.token_ids == plain.token_ids
    assert len(medusa.token_ids) > 4


def bad_mesh(model, data, batch, accumulate):
    settings = make(model, data, (8, 1, 1), batch_size=batch, accumulate=accumulate)
    with pytest.raises(UserError) as error:
        train(settings, Path("nowhere"))
    return str(error.value)


def test_a_batch_that_does_not_fit_the_devices(model, data):
    assert "set config.accumulate=8" in bad_mesh(model, data, 64, 16)
    message = bad_mesh(model, data, 12, 2)
    assert "to a multiple of 16, or config.mesh.data to less" in message


def test_heads_to_start_from_are_not_rounded_and_may_lack_biases(finished, model, data, tmp_path):
    tensors = load_file(finished("medusa1_cached")[1] / "export" / "medusa_lm_head.safetensors")
    heads = {name: x * (1 + 2**-20) for name, x in tensors.items() if "bias" not in name}
    (tmp_path / "heads").mkdir()
    save_file(heads, tmp_path / "heads" / "medusa_lm_head.safetensors")
    changes = {"steps": 1, "learning_rate": 1e-12, "dtype": "bfloat16", "export_format": "A"}
    medusa = str(tmp_path / "heads")
    settings = make(model, data, objective="medusa1", medusa=medusa, **changes)
    run(settings, tmp_path / "run")
    params = read_params(tmp_path / "run", make_mesh(1))[1]["heads"]
    assert params["blocks"].keys() == {"weight"}
    for h in range(4):
        np.testing.assert_allclose(
            params["blocks"]["weight"][h, 0], heads[f"{h}.0.linear.weight"], rtol=0, atol=1e-9
        )


def test_the_export_command(finished, model, tmp_path):
    workdir = finished("medusa1_cached")[1]
    command = [f"--workdir={workdir}", "--step=3", "--format=vllm", "--dtype=float32"]
    command += [f"--output={tmp_path / 'out'}"]
    first, again = run_many("train.export", [command] * 2, quick())
    assert first.code == 0, first.err
    assert again.code == 2, again.err
    assert "out exists: name a new folder" in again.err
    assert "Traceback" not in again.err
    params = read_params(workdir, make_mesh(1), 3)[1]["heads"]
    lm = medusa_jax.load(model, str(tmp_path / "out"), dtype="float32")
    jax.tree.map(np.testing.assert_array_equal, lm.heads_params, params)
