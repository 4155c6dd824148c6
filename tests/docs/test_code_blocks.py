"""The Python blocks of the documentation run, as a reader would run them."""

import re
import subprocess
import sys

import pytest

from tests.commands import ordinary, quick
from tests.docs.pages import DEFAULT_MODEL, PAGES, ROOT, blocks

WITH_CODE = [page for page in PAGES if blocks(page, "python")]


def test_the_readme_has_code():
    assert "README.md" in [page.name for page in WITH_CODE]


@pytest.mark.parametrize("page", WITH_CODE, ids=lambda page: page.name)
def test_blocks_run(page, tmp_path):
    """All blocks of a page together, in an interpreter of its own and without warnings."""
    code = "\n".join(blocks(page, "python"))
    if "medusa_jax.load(" in code and not DEFAULT_MODEL.exists():
        pytest.skip("needs the default model, which medusa_jax.load() downloads")
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        # The README's programs are compiled as its readers have them.
        env=(ordinary() if page.name == "README.md" else quick()) | {"PYTHONPATH": str(ROOT)},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    if "tokens_per_step" in code:
        printed = re.findall(r" (\d\.\d+)$", done.stdout, re.MULTILINE)
        assert any(float(number) >= 1 for number in printed), done.stdout
