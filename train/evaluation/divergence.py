"""How far a model's next-token distributions are from those of another with the same vocabulary."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from medusa_jax import MedusaLM
from medusa_jax.chat import Example
from medusa_jax.config import LlamaConfig
from medusa_jax.gpu import product_options
from medusa_jax.nn.llama import Llama
from train.data.padded import batches_of_like_length, hidden_and_labels, in_order, pad
from train.distributed import own_share, sum_over_processes

_BLOCK = 256  # positions whose logits exist at the same time
_TOKENS_PER_BATCH = 4096


def mean_divergence(reference: MedusaLM, lm: MedusaLM, examples: Sequence[Example]) -> float:
    """Mean KL(reference || lm) in nats over all positions that a label follows.

    Args:
      reference: the model as it is.
      lm: the model that stands in for it, on the same devices.
      examples: tokenized conversations, with at least one label; those of all processes, each of
        which takes its share.
    """
    total, count = 0.0, 0
    for batch in own_share(batches_of_like_length(examples, _TOKENS_PER_BATCH)):
        rows = _divergences(reference, lm, batch)
        total += sum(kl_T.sum(dtype=np.float64) for kl_T in rows)
        count += sum(len(kl_T) for kl_T in rows)
    total, count = sum_over_processes(np.asarray([total, count], np.float64))
    return float(total / count)


def divergence_each(reference: MedusaLM, lm: MedusaLM, examples: Sequence[Example]) -> list[float]:
    """The sum of these divergences over each conversation's positions; for one process."""
    found: list[float] = []
    for batch in batches_of_like_length(examples, _TOKENS_PER_BATCH):
        found += [float(x.sum(dtype=np.float64)) for x in _divergences(reference, lm, batch)]
    return in_order(examples, found)


def _divergences(reference: MedusaLM, lm: MedusaLM, batch: Sequence[Example]) -> list[np.ndarray]:
    """For every conversation, float32 [T] at the positions that a label follows."""
    padded = pad(batch, _TOKENS_PER_BATCH)
    hidden = [_hidden(model, padded) for model in (reference, lm)]
    used = np.flatnonzero(np.roll(padded["is_label"], -1, axis=1)[:, :-1])
    # Positions in rows without their last column, which nothing follows.
    rows, columns = np.divmod(used, padded["token"].shape[1] - 1)
    kl_T = np.zeros(len(used), np.float32)
    for start in range(0, len(used), _BLOCK):
        at = rows[start : start + _BLOCK], columns[start : start + _BLOCK]
        both = [np.zeros((_BLOCK, h.shape[-1]), h.dtype) for h in hidden]
        for to, own in zip(both, hidden, strict=True):
            to[: len(at[0])] = own[at]
        block_T = _program(lm.dtype)(
            (reference.config, lm.config),
            (reference.dtype, lm.dtype),
            (reference.params, lm.params),
            tuple(map(jnp.asarray, both)),
        )
        kl_T[start : start + _BLOCK] = np.asarray(block_T)[: len(at[0])]
    return [kl_T[rows == row] for row in range(len(batch))]


def _hidden(lm: MedusaLM, padded: dict[str, np.ndarray]) -> np.ndarray:
    return np.asarray(hidden_and_labels(lm, 0, padded)[0])


@functools.cache
def _program(dtype: str) -> Any:
    return jax.jit(_divergence, static_argnums=(0, 1), compiler_options=product_options(dtype))


def _divergence(
    configs: tuple[LlamaConfig, LlamaConfig], dtypes: tuple[str, str], params: Any, hidden: Any
) -> jax.Array:
    """float32 [T], from hidden states [T, D] of both models."""

    def log_probs(config: LlamaConfig, dtype: str, own: Any, hidden_TD: jax.Array) -> jax.Array:
        llama = Llama(config, jnp.dtype(dtype))
        logits_TV: Any = llama.apply({"params": own}, hidden_TD, method="logits")
        return jax.nn.log_softmax(logits_TV)

    log_p, log_q = map(log_probs, configs, dtypes, params, hidden)
    return (jnp.exp(log_p) * (log_p - log_q)).sum(-1)
