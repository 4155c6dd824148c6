"""Decoding with parameters spread over two real processes (gloo)."""

import json
import subprocess
import sys

from tests.commands import ROOT, quick
from tests.medusa_jax.decoding.batches import PROMPTS, decoded, rows
from tests.medusa_jax.tiny import tiny_lm
from tests.train.processes import free_port, outputs_of


def test_both_processes_read_the_tokens_that_one_decodes(tmp_path):
    port = str(free_port())
    files = [tmp_path / f"{i}.json" for i in range(2)]
    command = [sys.executable, "-m", "tests.medusa_jax.decoding.two_decoders"]
    processes = [
        subprocess.Popen(
            [*command, str(i), port, str(file)],
            cwd=ROOT,
            env=quick(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for i, file in enumerate(files)
    ]
    outputs_of(processes, seconds=240)
    texts = [json.loads(file.read_text()) for file in files]
    whole = rows(decoded(tiny_lm(), PROMPTS, [20] * 3))
    budgets = [20, 3, 9, 20, 5, 20]
    refilled = [row[:budget] for row, budget in zip(whole * 2, budgets, strict=True)]
    assert texts[0] == texts[1] == [whole, refilled]
