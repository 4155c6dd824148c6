"""What docs/benchmarks/collect_seeds.py makes of runs' logs."""

import json
import runpy

import pytest

from tests.docs.pages import ROOT


@pytest.fixture(scope="module")
def script():
    return runpy.run_path(str(ROOT / "docs" / "benchmarks" / "collect_seeds.py"))


def write(folder, *steps_per_token):
    folder.mkdir(parents=True)
    names = ("held_out/head_top1", "held_out/head_top5")
    rows = [{"step": 0, "loss": 1.0}]
    for step, value in enumerate(steps_per_token, 1):
        rows.append({"step": step, "held_out/accepted": value} | {name: [0.5] for name in names})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "settings.json").write_text(json.dumps({"conditioning": folder.parent.name}))


def test_an_interval_is_students(script):
    """By hand: 4.303 standard deviations of 1, over the root of 3."""
    assert script["interval"]([1.0, 2.0, 3.0]) == pytest.approx([2, 2 - 2.4843, 2 + 2.4843], 1e-4)


def test_runs_are_compared_seed_by_seed_by_their_last_evaluation(script, tmp_path):
    for seed, (one, other) in enumerate([(2.0, 2.2), (1.0, 1.1)]):
        write(tmp_path / "runs" / "root" / str(seed), 9.0, one)
        write(tmp_path / "runs" / "branch" / str(seed), 9.0, other)
    script["main"](str(tmp_path / "runs"), "root", str(tmp_path / "out.json"))
    branch, root = json.loads((tmp_path / "out.json").read_text())
    assert (branch["run"], root["run"]) == ("branch", "root")
    assert branch["versus root"] == pytest.approx([1.1, 1.1, 1.1])
    assert branch["tokens_per_step"][0] == pytest.approx(1.65)
    assert root["seeds"]["0"]["step"] == 2
    assert "versus root" not in root
    assert branch["settings"] == {"conditioning": "branch"}
