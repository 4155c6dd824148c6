"""docs/benchmarks/kernel_bundles.py reads the schedules that libtpu writes."""

import re
import subprocess
import sys

import pytest

from tests.docs.pages import ROOT
from tests.medusa_jax.plan.compilers import needs_tpu_compiler, told_nothing

SCRIPT = ROOT / "docs" / "benchmarks" / "kernel_bundles.py"


def run(*argv):
    command = [sys.executable, str(SCRIPT), *argv]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=300, env=told_nothing()
    )


@needs_tpu_compiler
def test_more_nodes_are_more_instructions():
    few, many = (run("--kv_heads", "2", "--nodes", nodes).stdout for nodes in ("8", "64"))
    for line in ("tree_attention: new tokens", "append_tokens: keys"):
        counts = [int(re.search(rf"{line} (\d+)", text)[1]) for text in (few, many)]
        assert 0 < counts[0] < counts[1] < 10_000
    blocks = [int(re.search(r"a block of slots (\d+)", text)[1]) for text in (few, many)]
    assert 0 < blocks[0] < blocks[1] < 10_000


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--nodes", "0"], "--nodes is 0"),
        (["--head_dim", "7"], "an even one"),
        (["--slots", "16"], "a multiple of 128"),
        (["--kv_heads", "3", "--query_heads", "8"], "no multiple"),
        (["--topology", "v9:1x1"], "v9"),
    ],
)
def test_what_no_model_has_is_one_line(argv, said):
    done = run(*argv)
    assert done.returncode == 2
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
