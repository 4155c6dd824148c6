"""The plans in docs/benchmarks/plans: which there are, and what gather.py makes of them."""

import json
import re
import runpy

import pytest

from tests.docs.pages import ROOT

PLANS = ROOT / "docs" / "benchmarks" / "plans"
RECIPES = sorted(
    file.stem for file in (ROOT / "configs").glob("*.py") if file.stem not in ("__init__", "base")
)


@pytest.fixture(scope="module")
def script():
    return runpy.run_path(str(PLANS / "gather.py"))


def names_of(recipe):
    """Of its plans: one, or one per stage."""
    text = (ROOT / "configs" / f"{recipe}.py").read_text(encoding="utf-8")
    stages = sorted(set(re.findall(rf"configs/{recipe}\.py:(stage\d)", text)))
    return [f"{recipe}_{stage}" for stage in stages] or [recipe]


def is_kept(recipe, name):
    """Whether there is a plan of committed code, made in no folder of one machine."""
    file = PLANS / f"{name}.json"
    plan = json.loads(file.read_text()) if file.exists() else {"commit": "", "command": ""}
    is_portable = not re.search(r"(^|[ =])/", plan["command"])
    is_of_it = f"configs/{recipe}.py" in plan["command"]
    return bool(re.fullmatch("[0-9a-f]{40}", plan["commit"])) and is_portable and is_of_it


def test_every_recipe_has_a_plan():
    plans = [(recipe, name) for recipe in RECIPES for name in names_of(recipe)]
    assert len(plans) == len(RECIPES) + 2  # two recipes have two stages
    assert {name for recipe, name in plans if not is_kept(recipe, name)} == set()


SLICES = json.loads((PLANS / "slices.json").read_text())
COLUMNS = {"v5e": 0, "v5p": 1, "v6e": 2, "h100": 3}


def cells_of_page():
    """{the table's rows in the order of the page}: v5e, v5p, v6e, H100."""
    lines = (ROOT / "docs" / "tpu.md").read_text(encoding="utf-8").splitlines()
    head = lines.index("| | v5e | v5p | v6e | H100 |")
    rows = [line.strip("| ").split(" | ") for line in lines[head + 2 :]]
    return [row[1:] for row in rows[: [len(row) > 1 for row in rows].index(False)]]


def test_the_page_and_the_recipes_say_what_the_compilers_said():
    """Eight H100 have a page of their own (docs/plan.md)."""
    recipes = list(dict.fromkeys(row["recipe"] for row in SLICES))
    cells = dict(zip(recipes, cells_of_page(), strict=True))
    for row in SLICES:
        kind, shape = row["topology"].split(":")
        memory, hours = f"{row['total_bytes'] / 1e9:.1f}", f"{row['hours']:.1f}"
        if row["topology"] != "h100:8":
            assert f"{shape}: {memory} GB, {hours} h" in cells[row["recipe"]][COLUMNS[kind]], row
            name = row["recipe"].partition(":")[0]
            docs = (ROOT / "configs" / name).read_text(encoding="utf-8").split('"""')[1]
            hardware = docs[docs.index("Hardware:") : docs.index("Hours:")]
            assert memory in hardware, row
            assert hours in docs[docs.index("Hours:") :], row
            assert "H100" in hardware if kind == "h100" else shape in hardware, row


def test_no_plan_says_more_than_a_device_can_do():
    plans = [json.loads(file.read_text()) for file in PLANS.glob("*.json")]
    rows = [row for plan in plans for row in (plan if isinstance(plan, list) else [plan])]
    bounds = [row["mfu_bound"] for row in rows if row.get("mfu_bound") is not None]
    assert len(bounds) > 5
    assert max(bounds) <= 1


def plan_of(script, recipe, **changes):
    plan = dict.fromkeys(script["_KEPT"], 0) | {
        "command": f"python -m train.plan --output x.json --config=configs/{recipe}",
        "topology": "v5e:2x4",
        "num_devices": 8,
        "fits": True,
        "total_bytes": 5_000_000_000,
        "tokens_per_second_per_device": 1000.0,
    }
    return plan | changes


def test_hours_are_those_of_all_tokens_on_all_devices(script):
    """230 M tokens at 8 times 1000 a second are 28,750 s."""
    found = script["row"](plan_of(script, "vicuna_13b_medusa2.py:stage2"))
    assert (found["recipe"], found["hours"]) == ("vicuna_13b_medusa2.py:stage2", 7.99)
    refused = plan_of(script, "vicuna_13b_medusa1.py", fits=False)
    assert script["row"](refused | {"tokens_per_second_per_device": None})["hours"] is None


def test_plans_of_something_else_are_left_out(script, tmp_path):
    changed = plan_of(script, "vicuna_7b_medusa1.py")
    changed["command"] += " --config.seq_len=128"
    plans = {
        "a": plan_of(script, "vicuna_7b_medusa1.py", topology="v6e:2x2", num_devices=4),
        "b": plan_of(script, "vicuna_7b_medusa1.py", topology="v5e:4x4", num_devices=16),
        "c": plan_of(script, "vicuna_7b_medusa1.py"),
        "changed": changed,
        "small": plan_of(script, "tiny.py"),
        "decoding": {"command": "python -m infer.plan --shape llama-1b"},
    }
    for name, plan in plans.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(plan))
    for _ in range(2):  # its own output is no plan
        script["main"](str(tmp_path), str(tmp_path / "slices.json"))
    rows = json.loads((tmp_path / "slices.json").read_text())
    assert [row["topology"] for row in rows] == ["v5e:2x4", "v5e:4x4", "v6e:2x2"]
