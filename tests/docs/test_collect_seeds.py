"""What docs/benchmarks/collect_seeds.py makes of runs' logs."""

import json
import runpy
import subprocess
import sys

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
        rows[-1] |= {"lm_loss": 9.0, "held_out/lm_loss": 2 * value}
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "settings.json").write_text(json.dumps({"conditioning": folder.parent.name}))


def test_an_interval_is_students(script):
    """By hand: 4.30265 standard deviations of 1, over the root of 3."""
    assert script["interval"]([1.0, 2.0, 3.0]) == pytest.approx([2, 2 - 2.48414, 2 + 2.48414], 1e-4)


def test_runs_are_compared_seed_by_seed_by_their_last_evaluation(script, tmp_path):
    for seed, (one, other) in enumerate([(2.0, 2.2), (1.0, 1.1)]):
        write(tmp_path / "runs" / "root" / str(seed), 9.0, one)
        write(tmp_path / "runs" / "branch" / str(seed), 9.0, other)
    script["main"](str(tmp_path / "runs"), "root", str(tmp_path / "out.json"))
    branch, root = json.loads((tmp_path / "out.json").read_text())["rows"]
    assert (branch["run"], root["run"]) == ("branch", "root")
    assert branch["tokens_per_step versus root"] == pytest.approx([1.1, 1.1, 1.1])
    assert branch["lm_loss versus root"] == pytest.approx([1.1, 1.1, 1.1])
    assert branch["tokens_per_step"][0] == pytest.approx(1.65)
    assert branch["lm_loss"][0] == pytest.approx(3.3)
    assert root["seeds"]["0"]["step"] == 2
    assert "tokens_per_step versus root" not in root
    assert branch["settings"] == {"conditioning": "branch"}


def test_a_lone_run_keeps_its_curve(script, tmp_path):
    """Of a seed that the reference lacks, nothing is compared."""
    write(tmp_path / "runs" / "long", 1.0, 2.0, 3.0)
    for seed in range(3):
        write(tmp_path / "runs" / "one" / str(seed), 1.0 + seed)
    for seed in range(2):
        write(tmp_path / "runs" / "other" / str(seed), 2.0 + 2 * seed)
    script["main"](str(tmp_path / "runs"), "other", str(tmp_path / "out.json"))
    found = json.loads((tmp_path / "out.json").read_text())
    (long,) = found["lone"]
    assert [row["accepted"] for row in long["curve"]] == [1, 2, 3]
    assert [row["step"] for row in long["curve"]] == [1, 2, 3]
    assert found["rows"][0]["tokens_per_step versus other"] == pytest.approx([0.5, 0.5, 0.5])


def test_one_seed_has_no_interval(script, tmp_path):
    write(tmp_path / "runs" / "root" / "0", 2.0)
    script["main"](str(tmp_path / "runs"), "root", str(tmp_path / "out.json"))
    (root,) = json.loads((tmp_path / "out.json").read_text())["rows"]
    assert root["tokens_per_step"] == [2.0, None, None]


@pytest.mark.parametrize("name", ["collect_seeds", "plot_runs", "shrink_heads", "compare_steps"])
def test_without_arguments_scripts_say_what_they_want(name):
    command = [sys.executable, str(ROOT / "docs" / "benchmarks" / f"{name}.py")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "picture" in done.stderr or "output" in done.stderr or "NAME=" in done.stderr


def test_a_file_without_comparisons_is_not_drawn(tmp_path):
    (tmp_path / "rows.json").write_text('{"rows": [{"run": "one"}]}')
    script = str(ROOT / "docs" / "benchmarks" / "plot_runs.py")
    for name in ("rows.json", "nowhere.json"):
        command = [sys.executable, script, str(tmp_path / name), str(tmp_path / "picture.svg")]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
        assert done.returncode == 2
        assert "is no report of train.report" in done.stderr
    assert not (tmp_path / "picture.svg").exists()


def test_what_is_not_there_is_one_line(script, tmp_path, capsys):
    write(tmp_path / "runs" / "root" / "0", 1.0)
    write(tmp_path / "runs" / "root" / "1", 2.0)
    for runs, reference in (("nowhere", "root"), ("runs", "other")):
        with pytest.raises(SystemExit) as stopped:
            script["main"](str(tmp_path / runs), reference, str(tmp_path / "out.json"))
        assert stopped.value.code == 2
        assert capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "out.json").exists()


def test_any_number_of_seeds_and_names_that_were_never_evaluated(script, tmp_path):
    """By hand: 2.571 standard deviations, over the root of 6."""
    for seed in range(6):
        write(tmp_path / "runs" / "one" / str(seed), 1.0 + seed)
    write(tmp_path / "runs" / "none" / "0")
    script["main"](str(tmp_path / "runs"), "one", str(tmp_path / "out.json"))
    (one,) = json.loads((tmp_path / "out.json").read_text())["rows"]
    assert one["tokens_per_step"] == pytest.approx([3.5, 3.5 - 1.9633, 3.5 + 1.9633], 1e-4)
