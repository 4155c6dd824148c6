"""What docs/benchmarks/compare_reports.py makes of two reports."""

import json
import runpy

import pytest

from medusa_jax.errors import UserError
from tests.docs.pages import ROOT


@pytest.fixture(scope="module")
def script():
    return runpy.run_path(str(ROOT / "docs" / "benchmarks" / "compare_reports.py"))


def prompts(factor, tokens=(10, 20, 30)):
    return {
        "conversations": [{"loss": factor * n, "tokens": n} for n in tokens],
        "problems": [],
        "questions": [],
    }


@pytest.fixture
def reports(tmp_path):
    """Losses per token: 2 of "base"; 3 and 5 of the seeds of "own"; "other" read other texts."""
    rows = {
        "a": [{"run": "base", "prompts": [prompts(2.0)]}],
        "b": [
            {"run": "own", "prompts": [prompts(3.0), prompts(5.0)]},
            {"run": "other", "prompts": [prompts(2.0, (10, 20, 31))]},
        ],
    }
    for name, own in rows.items():
        (tmp_path / name).write_text(json.dumps({"rows": own}))
    return tmp_path


def test_runs_of_two_reports_are_paired(script, reports):
    pair = f"{reports}/b:own:0,{reports}/a:base"
    script["main"](pair, f"{reports}/b:own,{reports}/a:base", str(reports / "out"))
    found = json.loads((reports / "out").read_text())
    one, both = found["rows"]
    # The quotient is the same whatever prompts are drawn.
    assert one["lm_loss"]["ratio"] == pytest.approx(3 / 2)
    assert one["lm_loss"]["interval"] == pytest.approx([3 / 2, 3 / 2])
    assert one["lm_loss"]["verdict"] == "worse"
    assert both["lm_loss"]["ratio"] == pytest.approx(15**0.5 / 2)  # a geometric mean
    low, high = both["lm_loss"]["interval"]
    assert low < 1 < 2.5 < high  # of two seeds little is known
    assert set(one) == {"run", "versus", "lm_loss"}
    assert found["commit"]


def test_two_runs_have_luck_of_their_own(script, reports):
    """Seeds of one run are not those of the other, even where they reached the same."""
    script["main"](f"{reports}/b:own,{reports}/b:own", str(reports / "out"))
    (row,) = json.loads((reports / "out").read_text())["rows"]
    low, high = row["lm_loss"]["interval"]
    assert low < 0.9 < 1.1 < high


@pytest.mark.parametrize(
    ("pair", "reason"),
    [
        ("{0}/b:other,{0}/a:base", "different prompts"),
        ("{0}/b:none,{0}/a:base", "write FILE:RUN or FILE:RUN:SEED"),
        ("{0}/b:own:2,{0}/a:base", "write FILE:RUN or FILE:RUN:SEED"),
        ("{0}/c:own,{0}/a:base", "write FILE:RUN or FILE:RUN:SEED"),
        ("{0}/b:own", "write FILE:RUN or FILE:RUN:SEED"),
    ],
)
def test_what_cannot_be_compared_is_refused(script, reports, pair, reason):
    with pytest.raises(UserError, match=reason):
        script["main"](pair.format(reports), str(reports / "out"))
    assert not (reports / "out").exists()


def test_no_pairs_are_refused(script, tmp_path):
    with pytest.raises(UserError, match="for every comparison"):
        script["main"](str(tmp_path / "out"))
