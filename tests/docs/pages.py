"""What the tests of the documentation read: pages, their code blocks, their commands."""

import dataclasses
import os
import re
import shlex
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

from medusa_jax.io.cache import cache_dir

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
# Of `medusa_jax.load()`; tests that need it do not download it.
DEFAULT_MODEL = cache_dir() / "models" / "SmolLM2-135M-Instruct.Q4_1.gguf"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
SCRIPTS = sorted((ROOT / "runs").glob("*.sh"))
RECIPES = sorted((ROOT / "configs").glob("*.py"))

_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_INLINE = re.compile(r"`((?:python -m|make|pip install) [^`]+)`")
_INDENTED = re.compile(r"^ +(python -m (?:.*\\\n)*.*)$", re.MULTILINE)
# In place of Python: writes its arguments down, and the file that a command would have written, of
# as many lines as it was told.
_RECORDER = """#!/usr/bin/env bash
printf '%q ' python "$@" >>"$RECORD"; echo >>"$RECORD"
lines=0
for word; do case $word in --count=* | --limit=*) lines=${word#*=} ;; esac; done
for word; do case $word in --output=*) yes '{}' | head -n "$lines" >"${word#*=}" ;; esac; done
"""


@dataclasses.dataclass(frozen=True)
class Command:
    """One command line that a page shows: where, and its words."""

    page: str
    words: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.page}: {' '.join(self.words)}"


def blocks(page: Path, language: str) -> list[str]:
    """The fenced blocks of a page in a language ("": none is named)."""
    return [body for name, body in _BLOCK.findall(_text(page)) if name == language]


def commands_of_script(script: Path, folder: Path, **variables: str) -> list[Command]:
    """What a script would run: it does run, into a folder, with a Python that only takes notes."""
    (folder / "python").write_text(_RECORDER)
    (folder / "python").chmod(0o755)
    record, data = folder / "record", folder / "data.jsonl"
    data.touch()
    files = dict.fromkeys(("DATA", "QUESTIONS", "PROBLEMS"), data)
    names = files | {"RECORD": record, "OUT": folder / "out"}
    path = f"{folder}{os.pathsep}{os.environ['PATH']}"
    around = os.environ | {name: str(value) for name, value in names.items()} | variables
    subprocess.run(["bash", str(script)], env=around | {"PATH": path}, check=True)
    return list(_split(script, record.read_text().splitlines()))


def commands() -> list[Command]:
    """Every command that pages and the recipes' docstrings show."""
    found: list[Command] = []
    for page in PAGES:
        texts = [*blocks(page, ""), *blocks(page, "bash")]
        found += _split(page, [line for text in texts for line in _lines(text)])
        found += _split(page, [" ".join(text.split()) for text in _INLINE.findall(_text(page))])
    for recipe in RECIPES:
        lines = [" ".join(_lines(text)) for text in _INDENTED.findall(_text(recipe))]
        found += _split(recipe, [line.replace("\\\\", "") for line in lines])
    return found


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def _lines(text: str) -> list[str]:
    """Lines of shell, continued ones joined."""
    return re.sub(r"\\+\n", " ", text).splitlines()


def _split(page: Path, lines: list[str]) -> Iterator[Command]:
    for line in lines:
        if line.startswith(("python -m ", "make ", "pip install ", *PROJECT["scripts"])):
            words = shlex.split(line.partition(" ...")[0], comments=True)
            yield Command(str(page.relative_to(ROOT)), tuple(words))
