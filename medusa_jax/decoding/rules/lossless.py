"""Lossless sampling: tokens from the base model's own distribution, the same with any draft.

Every position has its noise (`decoding.noise`), whatever is drafted for it. The token after a node
is the argmax of its filtered logits / temperature + that noise: a sample of the filtered
distribution (Gumbel-max). A child that holds this token is accepted; the first token that no child
holds is the next root. So the text is that of plain decoding with the same noise, and only its cost
depends on the tree (docs/design/sampling.md has the proof).
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from medusa_jax.decoding.drafting.draft import Draft, pick
from medusa_jax.decoding.noise import gumbel
from medusa_jax.decoding.rules.filters import Filters, filtered
from medusa_jax.decoding.rules.rule import Verdict, is_hot
from medusa_jax.decoding.state import Request

# Puts logits below all others of their head, noise included, and leaves them their digits.
_BEHIND = 1000.0


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LosslessNumbers:
    """The numbers of lossless sampling, one entry per row.

    Attributes:
      temperature_B: float32, 0 or more; 0 takes the most likely token.
      filters: which tokens may be sampled; None: all, in every row. Programs then need not ask
        about them, for which a GPU waits for the host every time.
    """

    temperature_B: jax.Array
    filters: Filters | None = None


@dataclasses.dataclass(frozen=True)
class Lossless:
    """Sampling by common random numbers."""

    def first(self, logits_BV: jax.Array, request: Request, position_B: jax.Array) -> jax.Array:
        """See `Rule.first`."""
        numbers: LosslessNumbers = request.rule_numbers
        logits_BV = logits_BV.astype(jnp.float32)
        score_BV = _scaled(logits_BV, numbers)
        if numbers.filters is not None:
            score_BV = filtered(score_BV, numbers.filters)
        noise_BV = _noise(request, position_B[:, None], logits_BV.shape[-1])[:, 0]
        return jnp.argmax(score_BV + noise_BV, axis=-1).astype(jnp.int32)

    def rank(
        self,
        logits_BXV: jax.Array,
        request: Request,
        position_BX: jax.Array,
        token_V: jax.Array | None,
    ) -> jax.Array:
        """See `Rule.rank`; the heads guess with the noise that will decide.

        Tokens that the filters drop from a head's distribution come after all others, without
        noise: the best of them are the next guess at what the model's own distribution keeps.
        """
        noise_BXV = _noise(request, position_BX, logits_BXV.shape[-1], token_V)
        # Multiplied by the temperature, which changes no rank: noise that still stands for what the
        # head does not know has the size that it has in training, 1.
        noisy_BXV = logits_BXV + noise_BXV * request.rule_numbers.temperature_B[:, None, None]
        if request.rule_numbers.filters is None:
            return noisy_BXV
        kept_BXV = jax.vmap(_kept, in_axes=(1, None), out_axes=1)(logits_BXV, request.rule_numbers)
        return jnp.where(kept_BXV, noisy_BXV, logits_BXV - _BEHIND)

    def judge(
        self, draft: Draft, logits_BRV: jax.Array, request: Request, position_B: jax.Array
    ) -> Verdict:
        """See `Rule.judge`; walks from the root to the first token that was not drafted."""
        batch = draft.token_BR.shape[0]
        step_1A = jnp.arange(draft.max_depth + 1, dtype=jnp.int32)[None]
        real_BR = draft.is_node() & (draft.depth_BR > 0)

        def descend(carry: Any) -> Any:
            depth, walking_B, verdict = carry
            logits_BV = pick(logits_BRV, verdict.last_B)
            token_B = self.first(logits_BV, request, position_B + depth + 1)
            is_next_BR = draft.parent_BR == verdict.last_B[:, None]
            is_next_BR &= real_BR & (draft.token_BR == token_B[:, None]) & walking_B[:, None]
            found_B = is_next_BR.any(-1)
            node_B = jnp.argmax(is_next_BR, axis=-1).astype(jnp.int32)
            moved_BA = found_B[:, None] & (step_1A > depth)
            verdict = Verdict(
                verdict.num_B + found_B.astype(jnp.int32),
                jnp.where(moved_BA, node_B[:, None], verdict.nodes_BA),
                jnp.where(found_B, node_B, verdict.last_B),
                jnp.where(walking_B, token_B, verdict.next_root_B),
            )
            return depth + jnp.int32(1), found_B, verdict

        zero_B = jnp.zeros((batch,), jnp.int32)
        at_root = Verdict(
            zero_B, jnp.zeros((batch, draft.max_depth + 1), jnp.int32), zero_B, zero_B
        )
        start = (jnp.int32(0), jnp.ones((batch,), jnp.bool_), at_root)

        def while_any_walks(carry: Any) -> Any:
            return jax.lax.while_loop(lambda carry: carry[1].any(), descend, carry)

        def to_the_end(carry: Any) -> Any:
            # Accelerators wait for the host at every test of an open-ended loop.
            bound = draft.max_depth + 1
            return jax.lax.fori_loop(0, bound, lambda _, carry: descend(carry), carry)

        return jax.lax.platform_dependent(start, cpu=while_any_walks, default=to_the_end)[2]


def _scaled(logits_BV: jax.Array, numbers: LosslessNumbers) -> jax.Array:
    """Logits / temperature, at most 0."""
    # The maximum is taken off first: a small temperature then gives 0 and -inf, never NaN.
    peak_B1 = jnp.max(logits_BV, axis=-1, keepdims=True)
    divisor_B = jnp.where(is_hot(numbers.temperature_B), numbers.temperature_B, 1.0)
    return (logits_BV - peak_B1) / divisor_B[:, None]


def _kept(logits_BV: jax.Array, numbers: LosslessNumbers) -> jax.Array:
    """What the filters leave of a head's guesses, and a few more: bool [B, V]."""
    assert numbers.filters is not None
    score_BV = filtered(_scaled(logits_BV, numbers), numbers.filters, is_rough=True)
    return score_BV > -jnp.inf


def _noise(
    request: Request, position_BX: jax.Array, size: int, token_V: jax.Array | None = None
) -> jax.Array:
    """Noise of the given or of all tokens, [B, X, V]; 0 in rows of temperature 0."""
    token_V = jnp.arange(size, dtype=jnp.uint32) if token_V is None else token_V
    noise_BXV = gumbel(request.key_B2, position_BX, token_V)
    return jnp.where(is_hot(request.rule_numbers.temperature_B)[:, None, None], noise_BXV, 0.0)
