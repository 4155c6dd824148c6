"""The order and the cuts of transformers' logits processors."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from transformers.generation.logits_process import (  # noqa: E402
    LogitsProcessorList,
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from tests.medusa_jax.decoding.rules.test_filters import kept  # noqa: E402


@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.7])
@pytest.mark.parametrize("top_k", [0, 1, 7, 300])
@pytest.mark.parametrize("top_p", [0.1, 0.8, 1.0])
@pytest.mark.parametrize("min_p", [0.0, 0.02, 0.5])
def test_the_same_tokens_stay(temperature, top_k, top_p, min_p):
    # The order is that of GenerationMixin._get_logits_processor.
    logits = np.random.default_rng(top_k).normal(size=(16, 200)).astype(np.float32) * 3
    warpers = LogitsProcessorList([TemperatureLogitsWarper(temperature)])
    if top_k:
        warpers.append(TopKLogitsWarper(top_k))
    if top_p < 1:
        warpers.append(TopPLogitsWarper(top_p))
    if min_p:
        warpers.append(MinPLogitsWarper(min_p))
    theirs = warpers(None, torch.tensor(logits)).numpy() > -np.inf
    score = (logits - logits.max(-1, keepdims=True)) / np.float32(temperature)
    np.testing.assert_array_equal(kept(score, top_k, top_p, min_p), theirs)
