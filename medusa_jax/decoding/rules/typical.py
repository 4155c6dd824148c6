"""Typical acceptance (Medusa, arXiv 2401.10774, section 2.3.1): plausible tokens are accepted too.

With q = softmax(logits / temperature) at a node's parent, the node is accepted when
q(token) > min(epsilon, delta * exp(-H(q))): at a parent of low entropy only likely tokens pass, at
one of high entropy less likely ones too. The truncation is that of Hewitt et al., 2022; the
original's function is `evaluate_posterior`.
"""

import dataclasses

import jax
import jax.numpy as jnp

from medusa_jax.decoding.drafting.draft import Draft, pick
from medusa_jax.decoding.rules.rule import RankedByLogits, Verdict, is_hot, longest_path
from medusa_jax.decoding.state import Request
from medusa_jax.nn.vocabulary import best_token

_ENTROPY_OFFSET = 1e-5  # inside the logarithm of the entropy, part of the published rule


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TypicalNumbers:
    """The numbers of typical acceptance, float32 arrays with one entry per row.

    Attributes:
      temperature_B: 0 or more; 0 is greedy acceptance exactly, in the same compiled code.
      epsilon_B: hard threshold (the original's `posterior_threshold`); larger is stricter.
      delta_B: factor of the entropy-dependent one (`posterior_alpha`); the paper: sqrt(epsilon).
    """

    temperature_B: jax.Array
    epsilon_B: jax.Array
    delta_B: jax.Array


@dataclasses.dataclass(frozen=True)
class Typical(RankedByLogits):
    """Typical acceptance.

    Attributes:
      sampled_root: the first token of each step is drawn from q restricted to the tokens with
        q >= min(epsilon, delta * exp(-H(q))); otherwise it is the most likely one, as in the paper.
    """

    sampled_root: bool = False

    def first(self, logits_BV: jax.Array, request: Request, position_B: jax.Array) -> jax.Array:
        """See `Rule.first`."""
        if not self.sampled_root:
            return best_token(logits_BV)
        return sample_typical(request.position_keys(position_B), logits_BV, request.rule_numbers)

    def judge(
        self, draft: Draft, logits_BRV: jax.Array, request: Request, position_B: jax.Array
    ) -> Verdict:
        """See `Rule.judge`; among the longest paths the one with the highest sum of ln q wins."""
        ok_BR, log_q_BR = _accepted(draft, logits_BRV, request.rule_numbers)
        num_B, nodes_BA, last_B = longest_path(draft, ok_BR, log_q_BR)
        # The token after the root and num_B accepted ones.
        next_root_B = self.first(pick(logits_BRV, last_B), request, position_B + num_B + 1)
        return Verdict(num_B, nodes_BA, last_B, next_root_B)


def _accepted(
    draft: Draft, logits_BRV: jax.Array, numbers: TypicalNumbers
) -> tuple[jax.Array, jax.Array]:
    """Whether each node passes under the distribution at its parent, and its ln q there.

    A parent's best token always passes for delta < 1 and max q > 1e-5 * delta / (1 - delta), so
    that this never accepts fewer tokens than greedy acceptance.
    """
    logits_BRV = logits_BRV.astype(jnp.float32)
    hot_B1 = is_hot(numbers.temperature_B)[:, None]
    temperature_B11 = numbers.temperature_B[:, None, None]
    log_q_BRV = _log_q(logits_BRV, temperature_B11)
    threshold_BR = _threshold(log_q_BRV, numbers.epsilon_B[:, None], numbers.delta_B[:, None])
    # From the logits: log q, of which only sums are needed otherwise, would be stored for this.
    row_B1 = jnp.arange(draft.token_BR.shape[0], dtype=jnp.int32)[:, None]
    logit_BR = logits_BRV[row_B1, draft.parent_BR, draft.token_BR]
    peak_BR, total_BR = (x.squeeze(-1) for x in _log_total(logits_BRV, temperature_B11))
    scaled_BR = (logit_BR - draft.at_parent(peak_BR)) / _divisor(numbers.temperature_B)[:, None]
    log_q_BR = scaled_BR - draft.at_parent(total_BR)
    best_BR = best_token(logits_BRV)
    typical_BR = jnp.exp(log_q_BR) > draft.at_parent(threshold_BR)
    ok_BR = jnp.where(hot_B1, typical_BR, draft.token_BR == draft.at_parent(best_BR))
    return ok_BR, jnp.where(hot_B1, log_q_BR, jnp.float32(0))


def sample_typical(key_B: jax.Array, logits_BV: jax.Array, numbers: TypicalNumbers) -> jax.Array:
    """Samples from q restricted to the tokens with q >= min(epsilon, delta * exp(-H(q))).

    Args:
      key_B: one random key per row.
      logits_BV: floating; base logits.
      numbers: at temperature 0 the best token is returned.

    Returns:
      int32 [B] tokens.
    """
    logits_BV = logits_BV.astype(jnp.float32)
    log_q_BV = _log_q(logits_BV, numbers.temperature_B[:, None])
    best_B = best_token(logits_BV)
    token_1V = jnp.arange(logits_BV.shape[-1], dtype=jnp.int32)[None]
    threshold_B = _threshold(log_q_BV, numbers.epsilon_B, numbers.delta_B)
    allowed_BV = jnp.exp(log_q_BV) >= threshold_B[:, None]
    # Large thresholds would otherwise leave no token at all.
    allowed_BV |= token_1V == best_B[:, None]
    sampled_B = jax.vmap(jax.random.categorical)(
        key_B, jnp.where(allowed_BV, log_q_BV, -jnp.inf)
    ).astype(jnp.int32)
    return jnp.where(is_hot(numbers.temperature_B), sampled_B, best_B)


def _log_q(logits: jax.Array, temperature: jax.Array) -> jax.Array:
    """Log-probabilities of float32 logits [..., V], at temperature 1 in place of 0."""
    peak, total = _log_total(logits, temperature)
    return (logits - peak) / _divisor(temperature) - total


def _log_total(logits: jax.Array, temperature: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The highest logit, and the log of the sum of exp((logits - that) / temperature): [..., 1].

    The maximum is taken off first: a small temperature then gives 0 and -inf, never NaN. XLA fuses
    this form; with `jax.nn.log_softmax`, a second array of this size stays alive.
    """
    peak = jnp.max(logits, axis=-1, keepdims=True)
    scaled = (logits - peak) / _divisor(temperature)
    return peak, jnp.log(jnp.sum(jnp.exp(scaled), axis=-1, keepdims=True))


def _divisor(temperature: jax.Array) -> jax.Array:
    return jnp.where(is_hot(temperature), temperature, 1.0)


def _threshold(log_q: jax.Array, epsilon: jax.Array, delta: jax.Array) -> jax.Array:
    """min(epsilon, delta * exp(-H)) of log-probabilities [..., V]."""
    q = jnp.exp(log_q)
    entropy = -jnp.sum(q * jnp.log(q + _ENTROPY_OFFSET), axis=-1)
    return jnp.minimum(epsilon, delta * jnp.exp(-entropy))
