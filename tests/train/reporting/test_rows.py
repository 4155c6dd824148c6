"""Figures, comparisons and verdicts of made-up measurements."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from medusa_jax.io.atomic import write_json
from train.reporting.figures import FIGURES
from train.reporting.rows import Measured, Measurement, make_rows
from train.reporting.table import print_rows

NUM = 40
SAME = {"original_tokens": 100, "repeated": 5, "ngrams": 97, "kl": 0.0}


def prompts(loss=2.0, steps=50, agreed=100, seed=0):
    """Rows of as many conversations as questions; conversations differ, questions little."""
    rng = np.random.default_rng(seed)
    questions = [
        SAME | {"tokens": 100, "steps": steps + i % 3, "agreed": agreed, "is_identical": i % 2}
        for i in range(NUM)
    ]
    conversations = [{"loss": loss * n, "tokens": n} for n in rng.integers(20, 90, NUM).tolist()]
    return {"conversations": conversations, "problems": [], "questions": questions}


def measured(name, *seeds):
    return Measured(name, each=[Measurement(own, []) for own in seeds])


def rows_of(*runs, references=("base",)):
    base = measured("base", prompts(steps=100))
    return {row["run"]: row for row in make_rows([base, *runs], references)}


def test_figures_are_quotients_of_sums():
    row = rows_of(measured("run", prompts(loss=1.5, agreed=30)))["run"]
    assert row["lm_loss"] == pytest.approx(1.5)
    steps = sum(50 + i % 3 for i in range(NUM))
    assert row["tokens_per_step"] == pytest.approx(100 * NUM / steps)
    assert row["reply_tokens"] == pytest.approx(100)
    assert row["agreement"] == pytest.approx(0.3)
    assert row["identical"] == pytest.approx(0.5)
    assert row["repetition"] == pytest.approx(5 / 97)
    assert "perplexity" not in row  # there are no problems
    assert all(low <= row[name] <= high for name, (low, high) in row["intervals"].items())


def test_verdicts_say_what_is_better():
    found = rows_of(measured("run", prompts(loss=2.2, agreed=30)))["run"]["versus"]["base"]
    assert found["lm_loss"]["ratio"] == pytest.approx(1.1)
    verdicts = {name: comparison["verdict"] for name, comparison in found.items()}
    assert verdicts == {
        "lm_loss": "worse",
        "tokens_per_step": "better",
        "reply_tokens": None,
        "agreement": "worse",
        "identical": None,
        "kl_divergence": None,
        "repetition": None,
    }
    assert found["agreement"]["difference"] == pytest.approx(-0.7)
    longer = prompts()
    for row in longer["questions"]:
        row["tokens"] = 110
    row = rows_of(measured("run", longer))["run"]
    assert row["versus"]["base"]["reply_tokens"]["verdict"] == "higher"  # neither good nor bad


def test_every_run_is_compared_with_every_reference():
    one, other = (
        measured(name, prompts(steps=steps)) for name, steps in (("one", 50), ("other", 60))
    )
    rows = rows_of(one, other, references=("base", "one"))
    assert {name: list(row["versus"]) for name, row in rows.items()} == {
        "base": ["one"],
        "one": ["base"],
        "other": ["base", "one"],
    }
    assert rows["other"]["versus"]["one"]["tokens_per_step"]["verdict"] == "worse"


def test_seeds_that_differ_leave_no_verdict():
    """One seed shows a difference with certainty; three of them show that it was the seed's."""
    losses = (1.9, 2.05, 1.95)
    one = rows_of(measured("run", prompts(loss=losses[0])))["run"]
    assert one["versus"]["base"]["lm_loss"]["verdict"] == "better"
    three = rows_of(measured("run", *(prompts(loss=x) for x in losses)))["run"]
    assert three["lm_loss"] == pytest.approx(np.prod(losses) ** (1 / 3))
    assert three["versus"]["base"]["lm_loss"]["verdict"] is None
    assert len(three["prompts"]) == 3


def test_accuracies_are_averaged_over_seeds():
    seeds = [Measurement(prompts(), [0.2, 0.1]), Measurement(prompts(), [0.1, 0.2])]
    row = rows_of(Measured("run", each=seeds))["run"]
    np.testing.assert_allclose(row["head_top1"], [0.15, 0.15])
    assert "head_top1" not in rows_of()["base"]


def test_rows_can_be_written_and_printed(tmp_path, capsys):
    rows = list(rows_of(measured("some[run]", prompts(loss=2.2))).values())
    write_json(tmp_path / "rows.json", rows)
    assert json.loads((tmp_path / "rows.json").read_text()) == rows
    print_rows(rows, ["base"])
    printed = capsys.readouterr().out
    for figure in FIGURES:
        assert (figure.title in printed) == (figure.name != "perplexity")
    assert "1.100x [1.100, 1.100]" in printed
    assert "2.200 [2.200, 2.200]" in printed
    assert "worse" in printed
    assert "some[run]" in printed


def test_rows_can_be_drawn(tmp_path):
    runs = [measured(name, prompts(loss=2.2)) for name in ("one_run", "other_run")]
    write_json(tmp_path / "report.json", {"rows": list(rows_of(*runs).values())})
    script = Path(__file__).parents[3] / "docs" / "benchmarks" / "plot_runs.py"
    command = [sys.executable, str(script), tmp_path / "report.json", tmp_path / "picture.svg"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    picture = (tmp_path / "picture.svg").read_text()
    for text in ("one_run", "other_run", "tokens per step", "held-out LM loss", "4-grams"):
        assert text in picture  # matplotlib notes every text that it draws as outlines
