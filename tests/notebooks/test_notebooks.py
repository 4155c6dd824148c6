"""Committed notebooks: executed, small, free of this or that machine, with the project's address.

That they run is checked by `make notebooks`.
"""

import json
import re
from pathlib import Path

import pytest

from tests.docs.pages import PROJECT, ROOT

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
ADDRESS = PROJECT["urls"]["Repository"]
# Paths of files, not the ends of HTML tags or the middle of addresses.
_PATH = re.compile(r"(?<![\w.:/<])(?:/[\w.@-]+){2,}|[A-Z]:\\\w+")


def cells(path: Path, kind: str) -> list[dict]:
    every = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [cell for cell in every if cell["cell_type"] == kind]


def source(cell: dict) -> str:
    return "".join(cell["source"])


def texts(cell: dict) -> str:
    """Everything that the outputs of a cell say; pictures left out."""
    said = []
    for output in cell["outputs"]:
        said.append("".join(output.get("text", "")))
        data = output.get("data", {})
        said += ["".join(data[kind]) for kind in data if kind.startswith("text/")]
    return "\n".join(said)


def test_there_are_two():
    names = [path.name for path in NOTEBOOKS]
    assert names == ["01_generate.ipynb", "02_train_heads.ipynb"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
class TestNotebook:
    def test_was_executed_from_top_to_bottom(self, path):
        counts = [cell["execution_count"] for cell in cells(path, "code")]
        assert counts == list(range(1, len(counts) + 1))

    def test_shows_results_and_no_error(self, path):
        outputs = [output for cell in cells(path, "code") for output in cell["outputs"]]
        kinds = {kind for output in outputs for kind in output.get("data", {})}
        assert {"image/png", "text/html"} <= kinds
        assert all(output["output_type"] != "error" for output in outputs)
        assert all(output.get("name") != "stderr" for output in outputs)

    def test_is_small(self, path):
        assert path.stat().st_size < 300_000

    def test_names_no_file_of_a_machine(self, path):
        every = cells(path, "code")
        said = "\n".join([*map(source, every), *map(texts, every)])
        found = [name for name in _PATH.findall(said) if not name.startswith("/tmp/medusa-")]
        assert found == []

    def test_badge_leads_to_it(self, path):
        badges = re.findall(r"\]\((https://colab[^)]+ipynb)\)", source(cells(path, "markdown")[0]))
        place = ADDRESS.removeprefix("https://github.com/")
        wanted = f"https://colab.research.google.com/github/{place}/blob/main/notebooks/{path.name}"
        assert badges == [wanted]

    def test_install_cell_has_the_address_and_takes_a_checkout(self, path):
        install = source(cells(path, "code")[0])
        assert f'REPOSITORY = "{ADDRESS}"' in install
        assert "git+{REPOSITORY}" in install
        assert "--editable" in install

    def test_address_stands_nowhere_else(self, path):
        rest = "\n".join(source(cell) for cell in cells(path, "code")[1:])
        assert "github.com" not in rest

    def test_versions_are_shown(self, path):
        (said,) = (texts(c) for c in cells(path, "code") if "platform.python" in source(c))
        assert re.search(r"Python 3\.\d+\.\d+, jax \d\S+, flax \d\S+, medusa-jax \d", said)


def test_install_cells_are_the_same():
    first, second = (source(cells(path, "code")[0]) for path in NOTEBOOKS)
    assert first == second
