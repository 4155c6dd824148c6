"""Every command in the documentation names a module, flags and configuration keys that exist."""

import json
import os
import re
import subprocess
import sys

import pytest

from tests.docs.pages import PROJECT, ROOT, SCRIPTS, Command, commands, commands_of_script

FOUND = commands()
PYTHON = [c for c in FOUND if c.words[0] not in ("make", "pip")]


def argv(command: Command) -> list[str]:
    """Module and arguments of a command line."""
    if command.words[0] == "python":
        return list(command.words[2:])
    return [PROJECT["scripts"][command.words[0]].partition(":")[0], *command.words[1:]]


def parsed(lines: list[list[str]]) -> list[str | None]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.docs.parse_commands"],
        input=json.dumps(lines),
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def complaints(found: list[Command]) -> list[str]:
    errors = parsed([argv(command) for command in found])
    return [f"{c}: {e}" for c, e in zip(found, errors, strict=True) if e]


def test_commands_are_found():
    """Or the other tests would pass on nothing."""
    pages = {command.page for command in FOUND}
    assert {"README.md", "docs/training.md", "docs/results.md", "docs/benchmarks.md"} <= pages
    assert sum(page.startswith("configs/") for page in pages) > 8
    assert len({argv(command)[0] for command in PYTHON}) > 7


def test_flags_and_keys_exist():
    assert complaints(PYTHON) == []


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_scripts_run_commands_that_exist(script, tmp_path):
    found = commands_of_script(script, tmp_path)
    assert len(found) >= 4
    assert complaints(found) == []


def test_sizes_of_heads_are_compared_by_commands_that_exist(tmp_path):
    (script,) = (script for script in SCRIPTS if "ablation" in script.name)
    found = commands_of_script(script, tmp_path, COMPARE="sizes", SEEDS="0")
    assert any("--config.num_layers=8" in command.words for command in found)
    assert complaints(found) == []


def test_only_training_is_for_all_hosts_of_a_slice(tmp_path):
    (script,) = (script for script in SCRIPTS if "tpu" in script.name)
    modules = {"train": {"train.main"}, "measure": {"train.evaluate", "infer.generate"}}
    for part, expected in modules.items():
        (tmp_path / part).mkdir()
        found = commands_of_script(script, tmp_path / part, PART=part)
        assert {argv(command)[0] for command in found} == expected
    for wrong in ({"PART": "some"}, {"OUT": "gs://bucket/run"}):
        environment = os.environ | {"DATA": "x", "OUT": str(tmp_path / "out")} | wrong
        done = subprocess.run(
            ["bash", str(script)], env=environment, capture_output=True, text=True
        )
        assert done.returncode == 2
        assert done.stderr.startswith("error: ")
        assert len(done.stderr.splitlines()) == 1


def test_scripts_are_found():
    kinds = ("ablation", "controls", "cpu", "replies")
    names = [*(f"smollm2_{kind}.sh" for kind in kinds), "vicuna_7b_tpu.sh"]
    assert [script.name for script in SCRIPTS] == names


def test_replies_are_made_once_in_a_stated_mix(tmp_path):
    (script,) = (script for script in SCRIPTS if "replies" in script.name)
    found = commands_of_script(script, tmp_path, PROMPTS="70", SIZE="7")
    parts = [[w for w in c.words if w.startswith(("--part", "--count"))] for c in found[:2]]
    assert parts == [["--part=train", "--count=70"], ["--part=choose", "--count=200"]]
    sampled = ["--temperature=0.7" in command.words for command in found[2:]]
    assert sampled == [False, True, False, True, False] * 2 + [False]
    (tmp_path / "record").unlink()
    (tmp_path / "record").touch()
    assert commands_of_script(script, tmp_path, PROMPTS="70", SIZE="7") == []


def test_the_check_itself():
    """What it says of wrong commands, and that it lets a right one pass."""
    wanted = {
        "infer.generate --promt=x": "promt",
        "infer.generate --acceptance=lenient": "acceptance",
        "infer.generate x": "unexpected argument 'x'",
        "train.main --config=configs/tiny.py --config.step=3": "step",
        "train.main --config=configs/tiny.py --config.steps=many": "steps",
        "train.main --config=configs/tiny.py --config.objective=medusa3": "objective",
        "train.nothing --data=x": "train.nothing",
        "train.main --config=configs/smollm2_medusa2.py:naive --workdir=x": "None",
    }
    errors = parsed([line.split() for line in wanted])
    for says, error in zip(wanted.values(), errors, strict=True):
        assert says in str(error)


def test_targets_of_make_exist():
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    used = {word for c in FOUND if c.words[0] == "make" for word in c.words[1:] if "=" not in word}
    assert used
    assert used <= set(targets)


def test_extras_exist():
    installs = [word for c in FOUND if c.words[0] == "pip" for word in c.words[2:]]
    listed = [names for word in installs for names in re.findall(r"\[(.+)\]", word)]
    extras = {extra for names in listed for extra in names.split(",")}
    assert extras
    assert extras <= set(PROJECT["optional-dependencies"])
