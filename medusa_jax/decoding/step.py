"""Prefill and the decode loop: a `lax.while_loop` over a fixed-size tree of drafted tokens.

A step is figure 1 of the paper: verify the draft with one pass of the backbone, commit the
accepted path, draft again from the hidden state of its last node. With a draft of the root alone
the same step is autoregressive decoding. These are plain functions; `runtime` compiles them.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from medusa_jax.config import LlamaConfig
from medusa_jax.decoding import cache as kv_cache
from medusa_jax.decoding import logprobs
from medusa_jax.decoding.draft import Draft, pick
from medusa_jax.decoding.drafters import Drafter
from medusa_jax.decoding.rules.rule import Rule
from medusa_jax.decoding.state import DecodeState, Prefilled, Request, write_output
from medusa_jax.nn.llama import Llama, causal_mask


@dataclasses.dataclass(frozen=True)
class Decoder:
    """What the compiled functions depend on besides shapes (a jit static).

    Attributes:
      model: architecture of the backbone.
      rule: how tokens are accepted and chosen.
      drafter: what a step proposes.
      dtype: compute dtype, "float32" or "bfloat16".
      cache_dtype: what keys and values are kept in, see `cache.storage_dtype`.
      logprobs: whether log-probabilities of the emitted tokens are wanted.
    """

    model: LlamaConfig
    rule: Rule
    drafter: Drafter
    dtype: str = "float32"
    cache_dtype: str = "float32"
    logprobs: bool = False

    def run(self, params: Any, *args: Any, **kwargs: Any) -> Any:
        """Applies the backbone; see `Llama` for the arguments."""
        llama = Llama(self.model, jnp.dtype(self.dtype))
        return llama.apply({"params": params["backbone"]}, *args, **kwargs)


def prefill_rows(
    decoder: Decoder, params: Any, request: Request, prompt_BT: jax.Array, length_B: jax.Array
) -> Prefilled:
    """Runs prompts and chooses the first new token of each; no tree, and no batch, is needed yet.

    Args:
      decoder: static description.
      params: {"backbone", "drafter"}.
      request: what each row asks for.
      prompt_BT: int32, right-padded with anything.
      length_B: int32 prompt lengths, 1 <= length <= T.
    """
    B, T = prompt_BT.shape
    position_BT = jnp.broadcast_to(jnp.arange(T, dtype=jnp.int32)[None], (B, T))
    hidden_BTD, kv = decoder.run(
        params,
        prompt_BT,
        position_BT,
        causal_mask(T),
        context_BT=jnp.broadcast_to(length_B[:, None], (B, T)),
    )
    hidden_BD = pick(hidden_BTD, length_B - 1)
    logits_BV = decoder.run(params, hidden_BD, method="logits")
    root_B = decoder.rule.first(request.biased(logits_BV), request, length_B)
    logprob_B = logprobs.of_tokens(logits_BV, root_B) if decoder.logprobs else None
    return Prefilled(request, kv, length_B, hidden_BD, root_B, logprob_B)


def begin(decoder: Decoder, params: Any, rows: Prefilled, *, capacity: int) -> DecodeState:
    """The state of a new batch of these rows, with a cache of `capacity` slots."""
    batch = rows.length_B.shape[0]
    empty = _empty_state(decoder, params, rows, capacity)
    return insert(decoder, params, empty, rows, jnp.arange(batch, dtype=jnp.int32))


def insert(
    decoder: Decoder, params: Any, state: DecodeState, rows: Prefilled, slot_B: jax.Array
) -> DecodeState:
    """Puts prefilled rows in the place of others, and drafts their first trees.

    Args:
      decoder: static description.
      params: {"backbone", "drafter"}.
      state: of a batch of B rows, perhaps in flight.
      rows: B' of them.
      slot_B: int32 [B'], the rows that they replace, all different.

    Returns:
      The state, in which the other rows are as they were.
    """
    batch = state.done_B.shape[0]

    def put(old: jax.Array, new: jax.Array) -> jax.Array:
        # The shape of a static tree is the same for all rows and has no entry per row.
        return old.at[slot_B].set(new) if old.shape[0] == batch else new

    cache = kv_cache.insert(state.cache, rows.kv, rows.length_B, slot_B)
    full_B = _is_full(decoder, cache.length_B[slot_B], cache.capacity)
    new_draft = _draft(decoder, params, rows.request, rows.length_B, rows.hidden_BD, rows.root_B)
    return DecodeState(
        request=jax.tree.map(put, state.request, rows.request),
        cache=cache,
        draft=jax.tree.map(put, state.draft, new_draft),
        output_BO=state.output_BO.at[slot_B].set(0),
        logprobs=logprobs.restart(state.logprobs, rows.logprob_B, slot_B),
        num_new_B=state.num_new_B.at[slot_B].set(0),
        num_steps_B=state.num_steps_B.at[slot_B].set(0),
        stopped_B=state.stopped_B.at[slot_B].set(False),
        done_B=state.done_B.at[slot_B].set(full_B | (rows.request.budget_B <= 0)),
    )


def decode(decoder: Decoder, params: Any, state: DecodeState, max_steps: jax.Array) -> DecodeState:
    """Steps until every row is done, at most `max_steps` (int32 scalar) times."""

    def unfinished(carry):
        state, steps = carry
        return ~state.done_B.all() & (steps < max_steps)

    def body(carry):
        state, steps = carry
        return _step(decoder, params, state), steps + jnp.int32(1)

    return jax.lax.while_loop(unfinished, body, (state, jnp.int32(0)))[0]


def _step(decoder: Decoder, params: Any, state: DecodeState) -> DecodeState:
    """Verifies the draft, commits and emits the accepted path, drafts the next tree."""
    draft, cache = state.draft, state.cache
    hidden_BRD, new = decoder.run(
        params,
        draft.token_BR,
        cache.length_B[:, None] + draft.depth_BR,
        draft.mask_BRR,
        prefix=cache.layers,
        prefix_length_B=cache.length_B,
    )
    logits_BRV = decoder.run(params, hidden_BRD, method="logits")
    with jax.named_scope("verify"):
        biased_BRV = state.request.biased(logits_BRV)
        verdict = decoder.rule.judge(draft, biased_BRV, state.request, cache.length_B)
    token_BA = jnp.take_along_axis(draft.token_BR, verdict.nodes_BA, axis=1)
    num_B, stopped_B = _emitted(state, token_BA, verdict.num_B + 1)
    with jax.named_scope("commit"):
        # The write must come after every read of the old cache, else XLA copies the whole cache
        # first. A tree's choice of nodes implies that; without one, the next root (never negative,
        # which XLA does not know) has to.
        start_B = cache.length_B + jnp.minimum(verdict.next_root_B, 0)
        new = kv_cache.select(new, verdict.nodes_BA)
        cache = kv_cache.append(dataclasses.replace(cache, length_B=start_B), new, num_B)
    num_new_B = state.num_new_B + num_B
    full_B = _is_full(decoder, cache.length_B, cache.capacity)
    ended_B = stopped_B | (num_new_B >= state.request.budget_B) | full_B
    hidden_BD = pick(hidden_BRD, verdict.last_B)
    return DecodeState(
        request=state.request,
        cache=cache,
        draft=_draft(
            decoder, params, state.request, cache.length_B, hidden_BD, verdict.next_root_B
        ),
        output_BO=write_output(state.output_BO, token_BA, state.num_new_B),
        logprobs=logprobs.extend(state.logprobs, logits_BRV, verdict, token_BA, state.num_new_B),
        num_new_B=num_new_B,
        num_steps_B=state.num_steps_B + (~state.done_B).astype(jnp.int32),
        stopped_B=state.stopped_B | stopped_B,
        done_B=state.done_B | ended_B,
    )


def _draft(
    decoder: Decoder,
    params: Any,
    request: Request,
    position_B: jax.Array,
    hidden_BD: jax.Array,
    root_B: jax.Array,
) -> Draft:
    """What follows the roots, which stand at `position_B`."""

    def rank(logits_BMV: jax.Array, token_V: jax.Array | None) -> jax.Array:
        return decoder.rule.rank(request.biased(logits_BMV, token_V), request, position_B, token_V)

    return decoder.drafter.draft(params, hidden_BD, root_B, rank)


def _emitted(state: DecodeState, token_BA: jax.Array, num_B: jax.Array):
    """How many of the num_B accepted tokens a row emits, and whether EOS is the last of them."""
    slot_1A = jnp.arange(token_BA.shape[1], dtype=jnp.int32)[None]
    eos_BA = (token_BA[:, :, None] == state.request.eos_BE[:, None, :]).any(-1) & (
        slot_1A < num_B[:, None]
    )
    to_eos_B = jnp.where(eos_BA.any(-1), jnp.argmax(eos_BA, axis=-1).astype(jnp.int32) + 1, num_B)
    room_B = state.request.budget_B - state.num_new_B
    stopped_B = eos_BA.any(-1) & (to_eos_B <= room_B) & ~state.done_B
    return jnp.where(state.done_B, 0, jnp.minimum(to_eos_B, room_B)), stopped_B


def _is_full(decoder: Decoder, length_B: jax.Array, capacity: int) -> jax.Array:
    """Whether one more step might not fit the cache."""
    return length_B + (decoder.drafter.max_depth + 1) > capacity


def _empty_state(decoder: Decoder, params: Any, rows: Prefilled, capacity: int) -> DecodeState:
    """A batch like `rows`, of which no row does anything."""
    batch = rows.length_B.shape[0]
    zero_B, false_B = jnp.zeros((batch,), jnp.int32), jnp.zeros((batch,), jnp.bool_)
    slots = capacity + decoder.drafter.max_depth + 1
    draft = jax.eval_shape(
        lambda *args: _draft(decoder, *args),
        *(params, rows.request, rows.length_B, rows.hidden_BD, rows.root_B),
    )
    return DecodeState(
        request=rows.request,
        cache=kv_cache.empty_cache(decoder.model, batch, capacity, jnp.dtype(decoder.cache_dtype)),
        draft=jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), draft),
        # As many slots as a row can emit, and slack, so that no write is ever shifted back over
        # tokens that count.
        output_BO=jnp.zeros((batch, slots), jnp.int32),
        logprobs=logprobs.empty(batch, slots) if decoder.logprobs else None,
        num_new_B=zero_B,
        num_steps_B=zero_B,
        stopped_B=false_B,
        done_B=~false_B,
    )
