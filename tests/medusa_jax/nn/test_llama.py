"""The network and its decode loop against golden files that transformers wrote.

See tests/parity/write_golden.py.
"""

import shutil
from pathlib import Path

import pytest
from safetensors import safe_open

from tests.medusa_jax.running import fitted_heads, forward, greedy, load_lm, relative_error

TOLERANCE = 1e-4
GOLDEN = Path(__file__).resolve().parents[2] / "golden"
ARCHITECTURES = (
    "llama_mha",
    "llama_gqa_tied",
    "llama_linear",
    "llama_dynamic",
    "llama_llama3",
    "llama_head_dim",
    "llama_bias",
    "mistral_window",
    "mistral_full",
    "zephyr",
    "qwen2",
    "qwen2_window",
    "qwen3",
)


@pytest.fixture(scope="module", params=ARCHITECTURES)
def golden(request, tmp_path_factory):
    """The model without heads, and its (prompt, logits, continuation) rows."""
    path, folder = GOLDEN / f"{request.param}.safetensors", tmp_path_factory.mktemp("golden")
    shutil.copy(path, folder / "model.safetensors")
    with safe_open(path, "numpy") as file:
        (folder / "config.json").write_text(file.metadata()["config"])
        rows = [
            tuple(file.get_tensor(f"{key}_{i}") for key in ("prompt", "logits", "continuation"))
            for i in range(2)
        ]
    return load_lm(folder), rows


def test_logits(golden):
    lm, rows = golden
    for prompt, expected_TV, _ in rows:
        assert relative_error(forward(lm, prompt)[1], expected_TV) <= TOLERANCE


def test_greedy_medusa(golden):
    lm, rows = golden
    prompts, _, expected = zip(*rows, strict=True)
    prompts, expected = [p.tolist() for p in prompts], [e.tolist() for e in expected]
    lm = fitted_heads(lm, prompts, expected).with_tree("mc_sim_7b_63")
    tokens, num_steps = greedy(lm, prompts, len(expected[0]))
    assert tokens == expected
    assert num_steps < 0.7 * sum(map(len, expected))  # else hardly a proposal was accepted
