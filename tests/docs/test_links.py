"""Links and file names in the documentation lead to files that exist."""

import json
import re
from pathlib import Path

import pytest

from tests.docs.pages import PAGES, ROOT

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
FOLDERS = ("medusa_jax", "train", "infer", "configs", "runs", "notebooks", "docs", "tests")
_LINK = re.compile(r"\]\((?!https?:)([^)#\s]+)(#[^)\s]+)?\)")
_FILE = re.compile(rf"`((?:{'|'.join(FOLDERS)})/[\w/.-]*)`")
_NAME_IN_FILE = re.compile(r"((?:`[\w.]+`(?: and )?)+) in `([\w/]+\.py)`")
_MODULE = re.compile(r"`((?:medusa_jax|train|infer|configs)(?:\.\w+)+)`")


def text_of(page: Path) -> str:
    if page.suffix == ".md":
        return page.read_text(encoding="utf-8")
    cells = json.loads(page.read_text(encoding="utf-8"))["cells"]
    return "\n\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")


def anchors(page: Path) -> set[str]:
    """As GitHub makes them of headings."""
    headings = re.findall(r"^#+ (.+)$", text_of(page), re.MULTILINE)
    return {"#" + re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}


@pytest.mark.parametrize("page", [*PAGES, *NOTEBOOKS], ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target, anchor in _LINK.findall(text_of(page)):
        file = (page.parent / target).resolve()
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), target + anchor


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_are_named_exist(page):
    missing = [name for name in _FILE.findall(text_of(page)) if not (ROOT / name).exists()]
    assert missing == []


def test_names_are_defined_where_the_concepts_say():
    found = _NAME_IN_FILE.findall(text_of(ROOT / "docs" / "concepts.md"))
    assert len(found) > 7
    for names, file in found:
        source = (ROOT / file).read_text(encoding="utf-8")
        for name in re.findall(r"`([\w.]+)`", names):
            *owner, last = name.split(".")
            assert re.search(rf"^ *(?:def|class) {last}\b", source, re.MULTILINE), (name, file)
            assert all(re.search(rf"^class {o}\b", source, re.MULTILINE) for o in owner), name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_modules_that_are_named_exist(page):
    """`package.module`, or `package.module.name` with the name somewhere in the module."""
    missing = [name for name in _MODULE.findall(text_of(page)) if not exists(name)]
    assert missing == []


def exists(dotted: str) -> bool:
    folder, names = ROOT, dotted.split(".")
    while names and (folder / names[0]).is_dir():
        folder /= names.pop(0)
    if not names:
        return True
    file = folder / f"{names[0]}.py"
    if not file.exists():  # a name of the package itself
        file, names = folder / "__init__.py", ["", *names]
    source = file.read_text(encoding="utf-8") if file.exists() else ""
    return all(re.search(rf"\b{name}\b", source) for name in names[1:])


def test_every_page_is_linked():
    linked = {Path(t).name for page in PAGES for t, _ in _LINK.findall(text_of(page))}
    assert {page.name for page in PAGES} - {"README.md"} <= linked
