"""Runs a backbone the short way: logits of every position, and greedy decoding with some heads."""

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from medusa_jax.config import LlamaConfig, MedusaConfig
from medusa_jax.decoding.runtime import make_request, make_runtime
from medusa_jax.io.hf.config import eos_ids, parse_config
from medusa_jax.io.hf.weights import load_safetensors
from medusa_jax.io.json_file import read_json
from medusa_jax.model import MedusaLM
from medusa_jax.nn.heads import init_heads
from medusa_jax.nn.llama import Llama, causal_mask, lm_head_weight

NUM_HEADS = 4
_PAD = 64


def load_lm(folder: Path) -> MedusaLM:
    """The backbone of a Hugging Face folder in float32, without tokenizer or heads."""
    raw = read_json(folder / "config.json")
    config = parse_config(raw)
    return MedusaLM(
        config=config,
        params=load_safetensors(folder, config, jnp.float32),
        eos_ids=eos_ids(raw),
        dtype="float32",
    )


def forward(lm: MedusaLM, ids: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Hidden states [T, D] and logits [T, V] of one sequence, in one pass without a cache."""
    T = len(ids)
    token_BT = np.zeros((1, -(-T // _PAD) * _PAD), np.int32)  # few lengths, few compilations
    token_BT[0, :T] = ids
    hidden_BTD, logits_BTV = _forward(lm.config, lm.params, token_BT, np.int32(T))
    return np.asarray(hidden_BTD[0, :T]), np.asarray(logits_BTV[0, :T])


@functools.partial(jax.jit, static_argnums=0)
def _forward(config: LlamaConfig, params, token_BT, length):
    llama, variables = Llama(config), {"params": params}
    position_BT = jnp.arange(token_BT.shape[1], dtype=jnp.int32)[None]
    hidden_BTD, _ = llama.apply(
        variables,
        token_BT,
        position_BT,
        causal_mask(token_BT.shape[1]),
        context_BT=jnp.full_like(position_BT, length),
    )
    return hidden_BTD, llama.apply(variables, hidden_BTD, method="logits")


def relative_error(logits: np.ndarray, expected: np.ndarray) -> float:
    """Largest difference at any position, as a share of the range of the expected logits."""
    assert logits.shape == expected.shape
    return float(np.abs(logits - expected).max() / np.ptp(expected))


def copied_heads(lm: MedusaLM) -> MedusaLM:
    """With heads that all equal the LM head, as before training."""
    config = MedusaConfig(NUM_HEADS, lm.config.hidden_size, lm.config.vocab_size)
    params = init_heads(config, lm_head_weight(lm.params), jnp.float32)
    return dataclasses.replace(lm, heads_config=config, heads_params=params)


def fitted_heads(
    lm: MedusaLM,
    prompts: Sequence[list[int]],
    continuations: Sequence[list[int]],
    *,
    draft_vocab: bool = False,
) -> MedusaLM:
    """With heads trained on these continuations, by least squares: right often, but not always.

    `draft_vocab` lets them propose the tokens of these texts only, which a large vocabulary needs.
    """
    texts = [np.array([*p, *c]) for p, c in zip(prompts, continuations, strict=True)]
    V, D = lm_head_weight(lm.params).shape
    token_map = np.unique(np.concatenate(texts)) if draft_vocab else np.arange(V)
    Vd = len(token_map)
    config = MedusaConfig(NUM_HEADS, D, Vd, own_projection=True, draft_vocab=draft_vocab)
    draft_ids = token_map.astype(np.int32) if draft_vocab else None
    params = init_heads(config, lm_head_weight(lm.params), jnp.float32, draft_ids)
    hidden = [forward(lm, text)[0] for text in texts]
    weights = []
    for k in range(1, NUM_HEADS + 1):
        x = np.concatenate([h[: -k - 1] for h in hidden])
        token = np.searchsorted(token_map, np.concatenate([text[k + 1 :] for text in texts]))
        weights.append(np.linalg.lstsq(x, np.eye(Vd, dtype=np.float32)[token])[0].T)
    params["projection"]["weight"] = jnp.asarray(np.stack(weights), jnp.float32)
    return dataclasses.replace(lm, heads_config=config, heads_params=params)


def random_heads(lm: MedusaLM) -> MedusaLM:
    """With heads of the same shape at random; programs compiled for lm serve them too."""
    keys = iter(jax.random.split(jax.random.key(0), 8))
    params = jax.tree.map(
        lambda x: x if x.dtype == jnp.int32 else jax.random.normal(next(keys), x.shape),
        lm.heads_params,
    )
    return dataclasses.replace(lm, heads_params=params)


def greedy(
    lm: MedusaLM, prompts: Sequence[list[int]], max_new_tokens: int
) -> tuple[list[list[int]], int]:
    """New tokens of every prompt, decoded as one batch, and the steps of all rows together."""
    runtime = make_runtime(lm)
    request = make_request([max_new_tokens] * len(prompts), lm.eos_ids)
    state = runtime.advance(runtime.start(request, prompts)).state
    output_BO, num_B = np.asarray(state.output_BO), np.asarray(state.num_new_B)
    rows = [row[:num].tolist() for row, num in zip(output_BO, num_B, strict=True)]
    return rows, int(np.asarray(state.num_steps_B).sum())
