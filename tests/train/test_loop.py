"""The loop: how long it runs, what it says and logs, and by what it ranks its checkpoints."""

import contextlib
import io
import json
import re
import time

import jax
import numpy as np
import pytest

from medusa_jax.errors import UserError
from tests.train.small_runs import (
    LORA,
    logged,
    make,
    run,
    write_data,
    write_model,
)
from train.checkpoints import Checkpoints
from train.held_out import HeldOut
from train.interrupt import Interrupt
from train.optimizer import learning_rate_schedule
from train.ranking import TOLERANCE

# Three conversations of 53 tokens to a row, four rows to a step: 34 of them make three steps.
PACKED = {"seq_len": 160, "held_out": 0.1}
BY_EPOCHS = PACKED | LORA | {"steps": None, "epochs": 3.0, "log_every": 2, "eval_every": 4}
STEPS = 9


@pytest.fixture(scope="module", autouse=True)
def _cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MEDUSA_JAX_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> tuple[str, str]:
    """Model and data."""
    folder = tmp_path_factory.mktemp("files")
    return write_model(folder / "model"), write_data(folder / "data.jsonl")


@pytest.fixture(scope="module")
def by_epochs(files, tmp_path_factory):
    """Settings, folder, rows and output of a run of three epochs."""
    settings = make(*files, **BY_EPOCHS)
    workdir = tmp_path_factory.mktemp("by_epochs") / "run"
    with contextlib.redirect_stdout(io.StringIO()) as out:
        rows = run(settings, workdir)
    lines = out.getvalue().splitlines()
    return settings, workdir, rows, lines


def saved(workdir) -> dict[int, dict[str, float]]:
    """What each checkpoint was saved with."""
    return {
        int(folder.name): json.loads((folder / "metrics" / "metrics").read_text())
        for folder in (workdir / "checkpoints").iterdir()
    }


def test_a_run_of_epochs_ends_after_them(by_epochs):
    _, workdir, rows, lines = by_epochs
    assert f"3 epochs = {STEPS} steps of 4 packed rows of 160 tokens" in lines
    assert [row["step"] for row in rows] == [2, 4, 6, 8, STEPS]
    assert max(saved(workdir)) == STEPS


def test_schedules_follow_the_computed_steps(by_epochs):
    settings, _, rows, _ = by_epochs
    schedule = learning_rate_schedule(settings.learning_rate, settings.warmup_steps, STEPS)
    for row in rows:
        assert row["learning_rate"] == pytest.approx(float(schedule(row["step"] - 1)), rel=1e-5)
    assert rows[-1]["learning_rate"] < 0.1 * settings.learning_rate


def test_a_stopped_run_of_epochs_resumes_with_the_same_steps(by_epochs, tmp_path, monkeypatch):
    settings, workdir, rows, _ = by_epochs
    monkeypatch.setattr(Interrupt, "reached", lambda self, step: step == 5)
    run(settings, tmp_path / "run")
    assert sorted(saved(tmp_path / "run"))[-1] == 5
    monkeypatch.undo()
    resumed = run(settings, tmp_path / "run")
    assert resumed[-1] == rows[-1]
    assert [row["step"] for row in resumed] == [row["step"] for row in rows]
    # What the model was at the start is remembered: it is never measured again.
    assert saved(tmp_path / "run")[STEPS] == saved(workdir)[STEPS]


def test_other_lengths_do_not_resume_it(by_epochs):
    settings, workdir, _, _ = by_epochs
    for changes in ({"epochs": 2.0}, {"steps": STEPS, "epochs": None}):
        other = make(settings.model, settings.data, **(BY_EPOCHS | changes))
        with pytest.raises(UserError, match=r"holds a run with (epochs = 3\.0|steps = None)"):
            run(other, workdir)


def test_figures_on_the_console_say_what_they_are_of(by_epochs):
    _, _, rows, lines = by_epochs
    training = [line for line in lines if line.startswith("training | ")]
    held_out = [line for line in lines if line.startswith("held out | ")]
    assert [line.split(" | ")[1] for line in training] == [f"step {row['step']}" for row in rows]
    steps = [f"step {step}" for step in (0, 4, 8, STEPS)]
    assert [line.split(" | ")[1] for line in held_out] == steps
    for line, row in zip(training, rows, strict=True):
        assert f"| MEDUSA-2 loss {row['loss']:.3f} | LM loss {row['lm_loss']:.3f} |" in line
        assert line.endswith(f"tokens/step {row['accepted']:.2f}")
    evaluated = [row for row in rows if "held_out/accepted" in row]
    for line, row in zip(held_out[1:], evaluated, strict=True):
        assert f"| LM loss {row['held_out/lm_loss']:.3f} |" in line
        assert line.endswith(f"tokens/step {row['held_out/accepted']:.2f}")
    (end,) = [line for line in lines if "per decoding step" in line]
    assert f" {evaluated[-1]['held_out/accepted']:.2f} tokens per decoding step" in end
    assert "mc_sim_7b_63" in end


def test_the_reference_is_the_model_before_its_first_step(by_epochs):
    _, workdir, rows, lines = by_epochs
    (start,) = [line for line in lines if line.startswith("held out | step 0 ")]
    notes = saved(workdir)[STEPS]
    assert f"LM loss {notes['reference']:.3f}" in start
    assert notes["base_loss"] == pytest.approx(rows[-1]["held_out/lm_loss"], rel=1e-6)
    assert notes["score"] == pytest.approx(rows[-1]["held_out/accepted"], rel=1e-6)


def test_self_distillation_keeps_its_fastest_step_that_is_still_the_model(files, tmp_path):
    changes = LORA | {"objective": "self_distill", "lora_dropout": 0.0, "learning_rate": 2e-3}
    changes |= {"steps": 12, "eval_every": 2, "save_every": 12, "keep": 1, "heads_coef": 0.5}
    rows = run(make(*files, **PACKED, **changes), tmp_path / "run")
    kl = {row["step"]: row["held_out/kl"] for row in rows if "held_out/kl" in row}
    speed = {row["step"]: row["held_out/accepted"] for row in rows if "held_out/kl" in row}
    assert len(kl) == 6
    best = max((step for step in kl if kl[step] <= TOLERANCE), key=speed.__getitem__)
    assert set(saved(tmp_path / "run")) == {best, 12}
    assert saved(tmp_path / "run")[12]["reference"] == 0.0
    # Neither the step with the lowest divergence nor the one with the fastest heads.
    assert min(kl, key=kl.__getitem__) < best < max(speed, key=speed.__getitem__)


def test_what_a_window_reports(files, tmp_path):
    """The worst loss since the last row, and the clock without compilation."""
    changes = PACKED | {"objective": "medusa1", "steps": 6, "eval_every": 6, "save_every": 6}
    every = run(make(*files, **changes, log_every=1), tmp_path / "every")
    some = run(make(*files, **changes, log_every=3), tmp_path / "some")
    losses = [row["loss"] for row in every]
    assert [row["loss"] for row in some] == [losses[2], losses[5]]
    assert [row["loss_max"] for row in some] == [max(losses[:3]), max(losses[3:])]


def test_the_clock_stands_still_while_a_checkpoint_is_saved(files, tmp_path, monkeypatch):
    """Also in the window after, which begins before the step that is logged is saved."""
    lost, real, save = [0.0], time.perf_counter, Checkpoints.save

    def slow(self, *arguments, **options):
        lost[0] += 1000.0
        save(self, *arguments, **options)

    monkeypatch.setattr("train.loop.time.perf_counter", lambda: real() + lost[0])
    monkeypatch.setattr(Checkpoints, "save", slow)
    changes = PACKED | {"objective": "medusa1", "steps": 6, "eval_every": 6, "save_every": 2}
    run(make(*files, **changes, log_every=3), tmp_path / "slow")
    rows = [*map(json.loads, (tmp_path / "slow" / "metrics.jsonl").read_text().splitlines())]
    assert (len(rows), lost[0]) == (2, 3000.0)
    assert max(row["seconds_per_step"] for row in rows) < 300.0


def break_evaluation(monkeypatch, name, good):
    """The evaluations that follow so many good ones find a loss that is not a number."""
    report, found = HeldOut.report, []

    def broken(self, params):
        found.append(report(self, params))
        return found[-1] | ({name: found[-1][name] * np.nan} if len(found) > good else {})

    monkeypatch.setattr(HeldOut, "report", broken)


@pytest.mark.parametrize(
    ("objective", "name", "good", "words"),
    [
        ("medusa1", "head_loss", 0, "the held-out loss of the heads"),
        ("medusa2", "head_loss", 1, "the held-out loss of the heads"),
        ("medusa2", "lm_loss", 1, "the held-out loss of the base head"),
    ],
)
def test_a_held_out_loss_that_is_not_finite_stops_the_run(
    files, tmp_path, monkeypatch, objective, name, good, words
):
    break_evaluation(monkeypatch, name, good)
    changes = {"objective": objective, "steps": 6, "save_every": 2, "eval_every": 3}
    with pytest.raises(UserError, match=rf"{words} is nan at step 3: .*checkpoint 2 is kept"):
        run(make(*files, **changes), tmp_path / "run")
    assert set(saved(tmp_path / "run")) == {2}
    assert [row["step"] for row in logged(tmp_path / "run")] == [1, 2]


def test_a_model_whose_loss_is_not_finite_before_the_first_step(files, tmp_path, monkeypatch):
    break_evaluation(monkeypatch, "lm_loss", 0)
    with pytest.raises(UserError, match=r"base head is nan at step 0: check config.model") as error:
        run(make(*files, objective="medusa2"), tmp_path / "run")
    assert "learning_rate" not in str(error.value)


def test_a_run_without_held_out_data(files, tmp_path, capsys):
    changes = {"objective": "medusa2", "held_out": 0.0, "steps": 2, "export_format": "none"}
    rows = run(make(*files, **changes), tmp_path / "run")
    assert not any(name.startswith("held_out/") for row in rows for name in row)
    out = capsys.readouterr().out
    assert "held out |" not in out
    assert re.search("step 2 was not measured on held-out data: see config.held_out", out)


def test_a_trace_covers_its_steps(files, tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(jax.profiler, "start_trace", lambda folder: calls.append(folder))
    monkeypatch.setattr(jax.profiler, "stop_trace", lambda: calls.append("stop"))
    settings = make(*files, objective="medusa1", steps=4, profile="2:3", export_format="none")
    run(settings, tmp_path / "run")
    assert calls == [str(tmp_path / "run" / "profile"), "stop"]


def test_a_run_that_ctrl_c_stops_keeps_its_trace_and_its_log(files, tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(jax.profiler, "start_trace", lambda folder: calls.append("start"))
    monkeypatch.setattr(jax.profiler, "stop_trace", lambda: calls.append("stop"))

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(Interrupt, "reached", interrupted)
    settings = make(*files, objective="medusa1", steps=4, profile="1:3", export_format="none")
    with pytest.raises(KeyboardInterrupt):
        run(settings, tmp_path / "run")
    assert calls == ["start", "stop"]
