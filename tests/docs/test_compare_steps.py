"""What docs/benchmarks/compare_steps.py makes of answers."""

import json
import runpy
import sys

import pytest

from medusa_jax.errors import UserError
from tests.docs.pages import ROOT


@pytest.fixture(scope="module")
def script():
    return runpy.run_path(str(ROOT / "docs" / "benchmarks" / "compare_steps.py"))


def write(path, steps, prompts="abcdef", tokens=12, first=0):
    rows = [
        {
            "prompt": prompt,
            "sample": 0,
            "token_ids": [first] * n,
            "num_new_tokens": n,
            "num_steps": own,
        }
        for prompt, own, n in zip(prompts, steps, [tokens] * len(steps), strict=True)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_sums_are_divided_and_prompts_paired(script, tmp_path):
    """12 tokens to each of six prompts; the other takes half the steps on every one of them."""
    steps = [4, 6, 8, 12, 10, 8]
    one = write(tmp_path / "one", steps)
    two = write(tmp_path / "two", [n // 2 for n in steps], first=1)
    script["main"](f"one={one}", f"two={two}", str(tmp_path / "out.json"))
    found = json.loads((tmp_path / "out.json").read_text())
    one, two = found["rows"]
    value, low, high = one["tokens_per_step"]
    assert value == pytest.approx(72 / 48)
    assert 12 / 12 < low < value < high < 12 / 4
    assert two["tokens_per_step"][0] == pytest.approx(72 / 24)
    assert two["versus_first"] == pytest.approx([2, 2, 2])  # whatever prompts are drawn
    assert (one["other_answers"], two["other_answers"]) == (0, 6)
    assert found["prompts"] == list("abcdef")
    assert found["commit"]


def test_other_prompts_are_refused(script, tmp_path):
    one = write(tmp_path / "one", [1] * 6)
    two = write(tmp_path / "two", [1] * 6, "abcdeg")
    with pytest.raises(UserError, match="two has answered other prompts than one"):
        script["main"](f"one={one}", f"two={two}", str(tmp_path / "out.json"))
    assert not (tmp_path / "out.json").exists()


@pytest.mark.parametrize("text", ["", "{}\n{}\n", "[]\n[]\n", "no JSON\n"])
def test_other_files_are_refused(script, tmp_path, text):
    (tmp_path / "rows").write_text(text)
    with pytest.raises(UserError, match=r"name what infer\.generate --output"):
        script["main"](f"a={tmp_path / 'rows'}", str(tmp_path / "out.json"))


@pytest.mark.parametrize("pairs", [[], ["a="], ["a"], ["a=b", "a=c"]])
def test_arguments_are_explained(monkeypatch, capsys, pairs):
    path = str(ROOT / "docs" / "benchmarks" / "compare_steps.py")
    monkeypatch.setattr(sys, "argv", [path, *pairs, "out.json"])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(path, run_name="__main__")
    assert stop.value.code == 2
    assert capsys.readouterr().err.startswith("error: say NAME=ROWS.jsonl")
