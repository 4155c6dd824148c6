"""docs/benchmarks/kernel_bundles.py reads the schedules that libtpu writes."""

import re
import subprocess
import sys

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


@needs_tpu_compiler
def test_an_unknown_topology_is_one_line():
    done = run("--topology", "v9:1x1")
    assert done.returncode == 2
    assert "v9" in done.stderr
    assert "Traceback" not in done.stderr
