"""The model that the benchmark builds for transformers is ours, weight for weight."""

import pytest

import medusa_jax
from infer.bench.torch_model import missing_reason, transformers_contender

pytest.importorskip("torch", reason="pip install 'medusa-jax[parity]'")

PROMPT = [1, 403, 407, 261]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("source", ["folder", "parameters"])
def test_transformers_decodes_the_same_tokens(stories260k, source, dtype):
    lm = medusa_jax.load(str(stories260k), "none", dtype=dtype)
    path = stories260k if source == "folder" else stories260k / "model.safetensors"
    assert missing_reason(lm.config, path) is None
    contender = transformers_contender(lm, path, 24)
    contender.warm_up(PROMPT)
    answer = contender.answer(PROMPT)
    (ours,) = medusa_jax.generate(lm, [PROMPT], max_new_tokens=24)
    length = 24 if dtype == "float32" else 4  # rounding parts the two sooner or later
    assert answer.token_ids[:length] == ours.token_ids[:length]
    assert answer.steps == answer.step_tokens == len(answer.token_ids) - 1 == 23
    assert min(answer.prefill_seconds, answer.decode_seconds) > 0
