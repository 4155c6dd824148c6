"""What the decode loop carries, and what a caller asks of it: pytrees with one entry per row."""

import dataclasses
from typing import Any

import jax

from medusa_jax.decoding.cache import KVCache
from medusa_jax.decoding.draft import Draft
from medusa_jax.nn.llama import LayersKV


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Request:
    """What each row asks for: arrays, so that nothing recompiles.

    Attributes:
      budget_B: int32, new tokens that the row may emit; 0 for rows that only pad the batch.
      eos_BE: int32 [B, E], token ids that end the row; -1 pads. E is 8 unless there are more.
      key_B2: uint32 [B, 2], the data of one threefry key per row. Rules fold it with a token's
        position (`position_keys`), so that a row's tokens do not depend on the rest of the batch.
      numbers: the rule's own, a pytree of arrays with a leading axis B.
    """

    budget_B: jax.Array
    eos_BE: jax.Array
    key_B2: jax.Array
    numbers: Any

    def position_keys(self, position_B: jax.Array) -> jax.Array:
        """A random key for the token at each row's position (int32)."""
        return fold_in(self.key_B2, position_B)


def fold_in(key_B2: jax.Array, number_B: jax.Array) -> jax.Array:
    """`jax.random.fold_in` of every row's key data and number: keys [B]."""
    key_B = jax.random.wrap_key_data(key_B2, impl="threefry2x32")
    return jax.vmap(jax.random.fold_in)(key_B, number_B)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Prefilled:
    """Rows whose prompts have been run, before they have a place in a batch.

    Attributes:
      request: what they ask for.
      kv: keys and values of the prompts, each [B, T, K, H] per layer.
      length_B: int32, tokens of each prompt.
      hidden_BD: compute dtype, the backbone's hidden state at the last token of each prompt.
      root_B: int32, the first new token of each row.
    """

    request: Request
    kv: LayersKV
    length_B: jax.Array
    hidden_BD: jax.Array
    root_B: jax.Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class DecodeState:
    """Carry of the decode loop.

    Attributes:
      request: what each row asks for.
      cache: committed keys and values.
      draft: the tree that the next step verifies.
      output_BO: int32 [B, O], emitted tokens; the first num_new_B of each row count. O is the
        cache's capacity and one step more.
      num_new_B: int32, tokens emitted.
      num_steps_B: int32, backbone passes after prefill while the row was not done.
      stopped_B: bool, the row emitted an EOS token (its last one).
      done_B: bool, the row is stopped, has its budget, or has no room left in the cache.
    """

    request: Request
    cache: KVCache
    draft: Draft
    output_BO: jax.Array
    num_new_B: jax.Array
    num_steps_B: jax.Array
    stopped_B: jax.Array
    done_B: jax.Array
