"""Lossless sampling of every architecture against transformers, which gets the same noise."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="pip install 'medusa-jax[parity]'")

from transformers.generation import logits_process as theirs  # noqa: E402

from medusa_jax.decoding.noise import gumbel  # noqa: E402
from medusa_jax.decoding.options import GenerationConfig, make_rule, rule_numbers  # noqa: E402
from medusa_jax.decoding.runtime import make_request, make_runtime  # noqa: E402
from tests.medusa_jax.decoding.batches import rows  # noqa: E402
from tests.medusa_jax.running import fitted_heads, load_lm  # noqa: E402
from tests.parity import models  # noqa: E402

VOCAB = models.LARGE["vocab_size"]
PROMPT_LENGTHS, NUM_NEW = (3, 10, 20), 40
# One row of each: the temperature alone, and what cuts the distribution too.
CONFIGS = [
    GenerationConfig(temperature=0.7),
    GenerationConfig(temperature=1.0, top_k=20, top_p=0.9),
    GenerationConfig(temperature=1.3, min_p=0.02),
]
_noise = jax.jit(gumbel)


class AddNoise(theirs.LogitsProcessor):
    """Turns the greedy choice into a draw (Gumbel-max) and remembers how near a tie it came."""

    def __init__(self, seed: int, number: int):
        self._key_12, self.margin = make_request([1], seed=seed, numbers=[number]).key_B2, np.inf

    def __call__(self, input_ids, scores):
        position_11 = jnp.full((1, 1), input_ids.shape[1], jnp.int32)
        noise_11V = _noise(self._key_12, position_11, jnp.arange(scores.shape[1]))
        noisy = scores + torch.from_numpy(np.asarray(noise_11V)[0].copy())
        second, first = noisy[0].sort().values[-2:].tolist()
        self.margin = min(self.margin, first - second)
        return noisy


def warpers(config):
    """Those of transformers, in its order (GenerationMixin._get_logits_processor)."""
    yield theirs.TemperatureLogitsWarper(config.temperature)
    if config.top_k:
        yield theirs.TopKLogitsWarper(config.top_k)
    if config.top_p < 1:
        yield theirs.TopPLogitsWarper(config.top_p)
    if config.min_p:
        yield theirs.MinPLogitsWarper(config.min_p)


def sampled_by_transformers(folder, number, config):
    """A prompt, its continuation and the seed: the first one without a near tie."""
    rng = np.random.default_rng([PROMPT_LENGTHS[number], 3])
    prompt = rng.integers(0, VOCAB, PROMPT_LENGTHS[number]).tolist()
    for seed in itertools.count():
        noise = AddNoise(seed, number)
        tokens = models.continuation(folder, prompt, NUM_NEW, [*warpers(config), noise])
        if noise.margin > 1e-3:
            return prompt, tokens, seed
    raise AssertionError("unreachable")


@pytest.mark.parametrize("name", models.ARCHITECTURES)
def test_same_noise_same_tokens(name, tmp_path):
    """Token for token, in a ragged batch whose rows cross the window and the original context."""
    models.save_model(name, models.LARGE, tmp_path)
    found = [sampled_by_transformers(tmp_path, i, config) for i, config in enumerate(CONFIGS)]
    prompts, expected, seeds = (list(column) for column in zip(*found, strict=True))
    lm = fitted_heads(load_lm(tmp_path), prompts, expected).with_tree("mc_sim_7b_63")
    runtime = make_runtime(lm, rule=make_rule(CONFIGS[0], lm.tree))
    requests = [
        make_request(
            [NUM_NEW], seed=seed, numbers=[i], rule_numbers=rule_numbers([config], filters=True)
        )
        for i, (seed, config) in enumerate(zip(seeds, CONFIGS, strict=True))
    ]
    request = jax.tree.map(lambda *rows: np.concatenate(rows), *requests)
    state = runtime.advance(runtime.start(request, prompts)).state
    assert rows(state) == expected
    assert int(np.asarray(state.num_steps_B).sum()) < 0.8 * len(prompts) * NUM_NEW
