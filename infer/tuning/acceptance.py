"""How often the heads guess what the model writes: ranks of its own tokens, teacher-forced.

The model answers prompts. One pass over a prompt with its answer then gives the hidden states of
all positions, and with them what the heads would have proposed from each: a step of decoding
accepts the path of the answer's own tokens, as far as the tree has it. Sampling ranks proposals by
the noise that will decide (`Rule.rank`), so the same is true at any temperature.
"""

import functools
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import medusa_jax
from medusa_jax import GenerationConfig, MedusaLM
from medusa_jax.chat import Encoded
from medusa_jax.config import MedusaConfig
from medusa_jax.decoding.options import make_rule, rule_numbers
from medusa_jax.decoding.rules.rule import Rule
from medusa_jax.decoding.runtime import make_request
from medusa_jax.decoding.state import Request
from medusa_jax.nn.layers import take_rows
from medusa_jax.nn.llama import Llama, causal_mask
from medusa_jax.objectives.accuracy import label_rank
from medusa_jax.objectives.labels import draft_ids
from medusa_jax.objectives.logits import head_logits, scoring_params

NO_LABEL = -1
_BLOCK = 64  # positions whose logits exist at the same time
_MIN_WIDTH = 64
_BATCH = 8


def label_ranks(
    lm: MedusaLM, prompt: Sequence[int], reply: Sequence[int], config: GenerationConfig, number: int
) -> np.ndarray:
    """Ranks of the reply's tokens among the heads' proposals, from every root that a step may have.

    Args:
      lm: a model with M heads.
      prompt: token ids.
      reply: token ids, of which each is a root; EOS included.
      config: the options that the reply was written with.
      number: of the prompt, which chose its noise.

    Returns:
      int64 [len(reply), M]: with reply[t] as the root, how many tokens head m preferred to
      reply[t + m + 1]. NO_LABEL where the reply has ended; very large for tokens outside the heads'
      vocabulary.
    """
    assert lm.heads_config is not None
    M, first = lm.heads_config.num_heads, len(prompt)
    ids = np.array([*prompt, *reply], np.int32)
    hidden_TD = _hidden(lm, ids)
    label_TM = _labels(ids, first, M)
    params = scoring_params(lm.params, lm.heads_params)
    parts = []
    for start in range(0, len(reply), _BLOCK):
        at_T = np.minimum(first + start + np.arange(_BLOCK), len(ids) - 1)
        request = make_request(
            [1] * _BLOCK,
            seed=config.seed,
            numbers=[number] * _BLOCK,
            rule_numbers=rule_numbers([config] * _BLOCK),
        )
        parts.append(
            _ranks(
                lm.heads_config,
                lm.dtype,
                make_rule(config, lm.tree),
                params,
                request,
                hidden_TD[at_T - 1],
                _branch(ids, at_T, M),
                at_T.astype(np.int32),
                label_TM[at_T - first],
            )
        )
    if not parts:
        return np.zeros((0, M), np.int64)
    rank_TM = np.concatenate(jax.device_get(parts))[: len(reply)].astype(np.int64)
    return np.where(label_TM == NO_LABEL, NO_LABEL, rank_TM)


def measure(
    lm: MedusaLM, prompts: Sequence[Encoded], numbers: Sequence[int], config: GenerationConfig
) -> Iterator[tuple[int, np.ndarray]]:
    """`label_ranks` of the model's answers to some prompts.

    Args:
      lm: a model with heads.
      prompts: all of them.
      numbers: those of the prompts to answer.
      config: how to answer.

    Yields:
      A prompt's number and its ranks, as soon as they are there.
    """
    wanted = [prompts[number] for number in numbers]
    answers = medusa_jax.generate_as_done(
        lm, wanted, batch_size=min(_BATCH, max(len(wanted), 1)), numbers=numbers, **vars(config)
    )
    for index, answer in answers:
        ids, number = wanted[index].ids, numbers[index]
        yield number, label_ranks(lm, ids, answer.token_ids, config, number)


def _hidden(lm: MedusaLM, ids: np.ndarray) -> np.ndarray:
    width = max(_MIN_WIDTH, 1 << (len(ids) - 1).bit_length())
    padded = np.pad(ids, (0, width - len(ids)))[None]
    return np.asarray(_forward(Llama(lm.config, jnp.dtype(lm.dtype)), lm.params, padded)[0])


@functools.partial(jax.jit, static_argnums=0)
def _forward(llama: Llama, params: Any, token_BT: jax.Array) -> jax.Array:
    position_BT = jnp.arange(token_BT.shape[1], dtype=jnp.int32)[None]
    hidden: Any = llama.apply(
        {"params": params}, token_BT, position_BT, causal_mask(token_BT.shape[1])
    )
    return hidden[0]


def _labels(ids: np.ndarray, first: int, num_heads: int) -> np.ndarray:
    """int32 [T, M], the token m + 1 after each of the reply's, or NO_LABEL."""
    num = len(ids) - first
    padded = np.pad(ids[first:], (0, num_heads), constant_values=NO_LABEL)
    return np.stack([padded[m : m + num] for m in range(1, num_heads + 1)], axis=1)


def _branch(ids: np.ndarray, at_T: np.ndarray, num_heads: int) -> np.ndarray:
    """int32 [T, M], what was written from each place on; beyond the end, anything."""
    return ids[np.minimum(at_T[:, None] + np.arange(num_heads), len(ids) - 1)]


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _ranks(
    config: MedusaConfig,
    dtype: str,
    rule: Rule,
    params: dict[str, Any],
    request: Request,
    hidden_TD: jax.Array,
    branch_TM: jax.Array,
    position_T: jax.Array,
    label_TM: jax.Array,
) -> jax.Array:
    """int32 [T, M]: positions take the place of the rows of a batch."""
    if "token_map" in params:
        vocab_size = params["embed"].shape[0]
        label_TM = draft_ids(label_TM, params["token_map"], vocab_size)
    branch_TJD = None
    if config.sees_root:
        branch_TJD = take_rows(params["embed"], branch_TM[:, : config.tokens_seen])
    logits_TMV = head_logits(
        config, params["heads"], params["shared"], hidden_TD, branch_TJD, dtype=dtype
    )
    ahead_1M = 1 + jnp.arange(config.num_heads, dtype=jnp.int32)[None]
    position_TM = position_T[:, None] + ahead_1M
    return label_rank(
        rule.rank(logits_TMV, request, position_TM, params.get("token_map")), label_TM
    )
