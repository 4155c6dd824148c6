"""What the decode loop carries, and what a caller asks of it: pytrees with one entry per row."""

import dataclasses
from typing import Any

import jax

from medusa_jax.decoding.cache import KVCache
from medusa_jax.decoding.drafting.draft import Draft


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Request:
    """What each row asks for: arrays, so that nothing recompiles.

    Attributes:
      budget_B: int32, new tokens that the row may emit; 0 for rows that only pad the batch.
      eos_BE: int32 [B, E], token ids that end the row; -1 pads. E is 8 unless there are more.
      key_B2: uint32 [B, 2], the data of one threefry key per row. Rules fold it with a token's
        position (`position_keys`), so that a row's tokens do not depend on the rest of the batch.
      rule_numbers: the rule's own, a pytree of arrays with a leading axis B.
      bias_BV: float32, added to the base model's logits before the rule sees them; None: nothing.
    """

    budget_B: jax.Array
    eos_BE: jax.Array
    key_B2: jax.Array
    rule_numbers: Any
    bias_BV: jax.Array | None = None

    def position_keys(self, position_B: jax.Array) -> jax.Array:
        """A random key for the token at each row's position (int32)."""
        key_B = jax.random.wrap_key_data(self.key_B2, impl="threefry2x32")
        return jax.vmap(jax.random.fold_in)(key_B, position_B)

    def biased(self, logits: jax.Array, token_V: jax.Array | None = None) -> jax.Array:
        """Logits float32 [B, V] or [B, X, V], of all tokens or of int32 [V] ones, with the bias."""
        if self.bias_BV is None:
            return logits
        bias_BV = self.bias_BV if token_V is None else self.bias_BV[:, token_V]
        return logits + (bias_BV if logits.ndim == 2 else bias_BV[:, None])


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Prefilled:
    """Rows whose prompts have been run, before they have a place in a batch.

    Attributes:
      request: what they ask for.
      cache: keys and values of the prompts.
      hidden_BD: compute dtype, the backbone's hidden state at the last token of each prompt.
      root_B: int32, the first new token of each row.
      logprob_B: float32, its log-probability under the model as it is; None: not asked for.
    """

    request: Request
    cache: KVCache
    hidden_BD: jax.Array
    root_B: jax.Array
    logprob_B: jax.Array | None = None


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Logprobs:
    """Log-probabilities under the model as it is: of temperature 1, without bias and filters.

    Attributes:
      root_B: float32, of the draft's root.
      output_BO: float32 [B, O], of the emitted tokens.
    """

    root_B: jax.Array
    output_BO: jax.Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class DecodeState:
    """Carry of the decode loop.

    Attributes:
      request: what each row asks for.
      cache: committed keys and values.
      draft: the tree that the next step verifies.
      output_BO: int32 [B, O], emitted tokens; the first num_new_B of each row count. O is the
        cache's capacity plus one step.
      made_at_BO: int32 [B, O], the row's step (counted from 0) that emitted each token.
      node_BO: int32 [B, O], the node of that step's draft that held it.
      logprobs: of the emitted tokens, None where nobody asked for them.
      num_new_B: int32, tokens emitted.
      num_steps_B: int32, backbone passes after prefill while the row was not done.
      stopped_B: bool, the row emitted an EOS token (its last one).
      done_B: bool, the row has stopped or has its whole budget, or is empty.
    """

    request: Request
    cache: KVCache
    draft: Draft
    output_BO: jax.Array
    made_at_BO: jax.Array
    node_BO: jax.Array
    logprobs: Logprobs | None
    num_new_B: jax.Array
    num_steps_B: jax.Array
    stopped_B: jax.Array
    done_B: jax.Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Progress:
    """What the host reads after some steps. Copies, since the next call consumes the state.

    Attributes:
      output_BO, made_at_BO, node_BO, logprobs: as in `DecodeState`.
      num_new_B, num_steps_B, stopped_B, done_B: likewise.
      root_B: int32, the token after the emitted ones, which is certain too.
      steps: int32, of this call.
    """

    output_BO: jax.Array
    made_at_BO: jax.Array
    node_BO: jax.Array
    logprobs: Logprobs | None
    num_new_B: jax.Array
    num_steps_B: jax.Array
    stopped_B: jax.Array
    done_B: jax.Array
    root_B: jax.Array
    steps: jax.Array


def write_output(output_BO: jax.Array, new_BA: jax.Array, start_B: jax.Array) -> jax.Array:
    """Writes what a step emitted, from where each row's output ended."""
    return jax.vmap(lambda row, new, i: jax.lax.dynamic_update_slice(row, new, (i,)))(
        output_BO, new_BA, start_B
    )
