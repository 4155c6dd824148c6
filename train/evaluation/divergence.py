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
from medusa_jax.nn.llama import Llama
from train.data.padded import batches_of_like_length, hidden_and_labels, pad
from train.distributed import own_share, sum_over_processes

_BLOCK = 256  # positions whose logits exist at the same time
_TOKENS_PER_BATCH = 4096


def mean_divergence(reference: MedusaLM, lm: MedusaLM, examples: Sequence[Example]) -> float:
    """Mean KL(reference || lm) in nats over all positions that a label follows.

    Args:
      reference: the model as it is.
      lm: the model that stands in for it, on the same devices.
      examples: tokenized conversations, with one label at least; those of all processes, each of
        which takes its share.
    """
    total, count = 0.0, 0
    for batch in own_share(batches_of_like_length(examples, _TOKENS_PER_BATCH)):
        padded = pad(batch, _TOKENS_PER_BATCH)
        hidden = [_hidden(model, padded) for model in (reference, lm)]
        used = np.flatnonzero(np.roll(padded["is_label"], -1, axis=1)[:, :-1])
        # Positions of rows without their last column, which nothing follows.
        rows, columns = np.divmod(used, padded["token"].shape[1] - 1)
        for start in range(0, len(used), _BLOCK):
            at = rows[start : start + _BLOCK], columns[start : start + _BLOCK]
            both = [np.zeros((_BLOCK, h.shape[-1]), h.dtype) for h in hidden]
            for to, own in zip(both, hidden, strict=True):
                to[: len(at[0])] = own[at]
            kl_T = _divergence(
                (reference.config, lm.config),
                (reference.dtype, lm.dtype),
                (reference.params, lm.params),
                tuple(map(jnp.asarray, both)),
            )
            total += float(np.asarray(kl_T)[: len(at[0])].sum(dtype=np.float64))
        count += len(used)
    total, count = sum_over_processes(np.asarray([total, count], np.float64))
    return float(total / count)


def _hidden(lm: MedusaLM, padded: dict[str, np.ndarray]) -> np.ndarray:
    return np.asarray(hidden_and_labels(lm, 0, padded)[0])


@functools.partial(jax.jit, static_argnums=(0, 1))
def _divergence(
    configs: tuple[LlamaConfig, LlamaConfig], dtypes: tuple[str, str], params: Any, hidden: Any
) -> jax.Array:
    """float32 [T], of hidden states [T, D] of both models."""

    def log_probs(config: LlamaConfig, dtype: str, own: Any, hidden_TD: jax.Array) -> jax.Array:
        llama = Llama(config, jnp.dtype(dtype))
        logits_TV: Any = llama.apply({"params": own}, hidden_TD, method="logits")
        return jax.nn.log_softmax(logits_TV)

    log_p, log_q = map(log_probs, configs, dtypes, params, hidden)
    return (jnp.exp(log_p) * (log_p - log_q)).sum(-1)
