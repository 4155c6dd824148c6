"""Every supported architecture against transformers on torch: logits, and greedy decoding."""

import json
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="pip install 'medusa-jax[parity]'")

import medusa_jax  # noqa: E402
from medusa_jax.io.cache import cache_dir  # noqa: E402
from tests.medusa_jax.running import fitted_heads, forward, greedy, load_lm, relative_error  # noqa: E402
from tests.parity import models  # noqa: E402

TOLERANCE = 1e-4
VOCAB = models.LARGE["vocab_size"]
# Below and beyond the sliding window and the original context of the dynamic rope.
SHORT, LONG = 7, 50
PROMPT_LENGTHS, NUM_NEW = (3, 10, 20), 40
OLD_SPELLING = ("llama_gqa_tied", "llama_linear", "llama_dynamic", "llama_llama3", "qwen2_window")


@pytest.fixture(scope="module", params=models.ARCHITECTURES)
def folder(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    models.save_model(request.param, models.LARGE, folder)
    return folder


def assert_same_logits(folder, reference):
    logits = forward(load_lm(folder), reference.prompt)[1]
    assert relative_error(logits, reference.logits_TV) <= TOLERANCE


@pytest.mark.parametrize("length", [SHORT, LONG])
def test_logits(folder, length):
    assert_same_logits(folder, models.clear_reference(folder, length, 1, VOCAB))


def test_greedy_medusa(folder):
    """Token for token, for a ragged batch whose rows cross the window and the original context."""
    references = [models.clear_reference(folder, n, NUM_NEW, VOCAB) for n in PROMPT_LENGTHS]
    prompts = [r.prompt for r in references]
    expected = [r.continuation for r in references]
    lm = fitted_heads(load_lm(folder), prompts, expected).with_tree("mc_sim_7b_63")
    tokens, num_steps = greedy(lm, prompts, NUM_NEW)
    assert tokens == expected
    assert num_steps < 0.5 * len(prompts) * NUM_NEW  # else hardly a proposal was accepted


@pytest.mark.parametrize("name", OLD_SPELLING)
def test_old_spelling(name, tmp_path):
    """`rope_theta`, `rope_scaling` and no `layer_types`: as written before transformers 5."""
    models.save_model(name, models.LARGE, tmp_path)
    reference = models.clear_reference(tmp_path, LONG, 1, VOCAB)
    path = tmp_path / "config.json"
    raw = json.loads(path.read_text())
    rope = raw.pop("rope_parameters")
    raw.pop("layer_types", None)
    raw["rope_theta"] = rope.pop("rope_theta")
    kind = rope.pop("rope_type")
    if kind != "default":
        # Llama 3 was the first to write rope_type; the kinds before it wrote type.
        raw["rope_scaling"] = rope | {"rope_type" if kind == "llama3" else "type": kind}
    path.write_text(json.dumps(raw))
    assert_same_logits(tmp_path, reference)


def test_default_model_with_the_shipped_heads():
    path = cache_dir() / "models" / "SmolLM2-135M-Instruct.Q4_1.gguf"
    if not path.exists():
        pytest.skip("the default model has not been downloaded yet")
    golden = Path(__file__).resolve().parents[1] / "golden" / "default_model.json"
    row = json.loads(golden.read_text())[0]
    expected = models.reference(path, row["prompt"], len(row["continuation"])).continuation
    assert expected == row["continuation"]
    lm = medusa_jax.load(dtype="float32", tree="mc_sim_7b_63")
    assert greedy(lm, [row["prompt"]], len(expected))[0] == [expected]
