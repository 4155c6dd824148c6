"""Dependencies point one way: who may import whom, read from the sources."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# What no file of a folder may import, directly.
FORBIDDEN = {
    "medusa_jax": ("train", "infer", "configs"),
    "medusa_jax/nn": ("tree", "decoding", "objectives", "io", "model", "chat", "sharding"),
    "medusa_jax/tree": ("nn", "decoding", "objectives", "io", "model", "chat", "sharding"),
    "medusa_jax/decoding": ("objectives", "io"),
    "medusa_jax/objectives": ("decoding", "io", "model", "chat"),
    "medusa_jax/io": ("decoding", "objectives"),
    "train": ("infer",),
    "infer": ("train",),
}


def imported(file: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found


@pytest.mark.parametrize("folder", FORBIDDEN)
def test_dependencies_point_one_way(folder):
    files = list((ROOT / folder).rglob("*.py"))
    assert files
    inside = f"{folder.partition('/')[0]}." if "/" in folder else ""
    for file in files:
        for name in FORBIDDEN[folder]:
            wrong = [m for m in imported(file) if f"{m}.".startswith(f"{inside}{name}.")]
            assert not wrong, f"{file.relative_to(ROOT)} imports {wrong}"


def test_the_model_knows_no_files():
    names = imported(ROOT / "medusa_jax" / "model.py")
    assert not [name for name in names if name.startswith(("medusa_jax.io", "medusa_jax.decoding"))]


def test_a_command_runs_when_its_module_does():
    """Most tests call `run`."""
    files = [file for folder in ("infer", "train") for file in (ROOT / folder).rglob("*.py")]
    commands = [text for text in map(Path.read_text, files) if "def run() -> None:\n" in text]
    assert len(commands) > 8
    for text in commands:
        assert text.endswith('\n\nif __name__ == "__main__":\n    run()\n')
