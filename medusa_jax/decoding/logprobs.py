"""Log-probabilities of emitted tokens, under the model as it is; computed where asked for."""

import jax
import jax.numpy as jnp

from medusa_jax.decoding.drafting.draft import pick
from medusa_jax.decoding.rules.rule import Verdict
from medusa_jax.decoding.state import Logprobs, write_output


def of_tokens(logits: jax.Array, token: jax.Array) -> jax.Array:
    """Those of tokens int32 [...] under softmax(logits float32 [..., V]): float32 [...]."""
    chosen = jnp.take_along_axis(logits, token[..., None], axis=-1)[..., 0]
    return chosen - jax.nn.logsumexp(logits, axis=-1)


def empty(batch: int, slots: int) -> Logprobs:
    """Those of `batch` rows that can emit `slots` tokens and have emitted none."""
    return Logprobs(jnp.zeros((batch,), jnp.float32), jnp.zeros((batch, slots), jnp.float32))


def restart(old: Logprobs | None, root_B: jax.Array | None, slot_B: jax.Array) -> Logprobs | None:
    """Rows slot_B int32 [B'] begin anew, with roots of log-probability root_B float32 [B']."""
    if old is None or root_B is None:
        return None
    return Logprobs(old.root_B.at[slot_B].set(root_B), old.output_BO.at[slot_B].set(0))


def extend(
    old: Logprobs | None,
    logits_BRV: jax.Array,
    verdict: Verdict,
    token_BA: jax.Array,
    num_new_B: jax.Array,
) -> Logprobs | None:
    """Adds those of the accepted path; that of its root was known when the root was chosen.

    Args:
      old: None: nobody asked.
      logits_BRV: float32, the base model's at every node, without bias.
      verdict: of the rule.
      token_BA: int32, tokens at verdict.nodes_BA.
      num_new_B: int32, tokens that were emitted before.
    """
    if old is None:
        return None
    # An accepted token is followed by the next one, the last by the next root.
    is_last_BA = jnp.arange(token_BA.shape[1], dtype=jnp.int32)[None] == verdict.num_B[:, None]
    next_BA = jnp.where(is_last_BA, verdict.next_root_B[:, None], jnp.roll(token_BA, -1, axis=1))
    logits_BAV = jnp.take_along_axis(logits_BRV, verdict.nodes_BA[:, :, None], axis=1)
    logprob_BA = of_tokens(logits_BAV, next_BA)
    new_BA = jnp.concatenate([old.root_B[:, None], logprob_BA[:, :-1]], axis=1)
    return Logprobs(pick(logprob_BA, verdict.num_B), write_output(old.output_BO, new_BA, num_new_B))
