"""The decode loop: a `lax.while_loop` over a fixed-size tree of drafted tokens.

A step is figure 1 of the paper: verify the draft with one pass of the backbone, commit the
accepted path, draft again from the hidden state of its last node. With a draft of the root alone
the same step is autoregressive decoding. These are plain functions; `runtime` compiles them.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from medusa_jax.decoding import cache as kv_cache
from medusa_jax.decoding import logprobs
from medusa_jax.decoding.cache import KVCache
from medusa_jax.decoding.decoder import Decoder
from medusa_jax.decoding.drafting.draft import Draft, pick, root_draft
from medusa_jax.decoding.state import DecodeState, Prefilled, Progress, Request, write_output


def begin(decoder: Decoder, params: Any, rows: Prefilled, *, capacity: int) -> DecodeState:
    """The state of a new batch of these rows, with a cache of `capacity` slots or more."""
    empty = idle(decoder, params, rows.request, capacity=capacity)
    return insert(decoder, params, empty, rows, jnp.arange(rows.root_B.shape[0], dtype=jnp.int32))


def idle(decoder: Decoder, params: Any, request: Request, *, capacity: int) -> DecodeState:
    """A batch in which no row does anything, with a cache of `capacity` slots or more.

    Args:
      decoder: static description.
      params: {"backbone", "drafter"}.
      request: for as many rows as the batch has; its values do not matter.
      capacity: room for a row's tokens, and for as many more as a draft is deep.
    """
    batch = request.budget_B.shape[0]
    zero_B, false_B = jnp.zeros((batch,), jnp.int32), jnp.zeros((batch,), jnp.bool_)
    cache = kv_cache.empty_cache(decoder.model, batch, capacity, jnp.dtype(decoder.cache_dtype))
    slots = _output_size(decoder, cache.capacity)
    output_BO = jnp.zeros((batch, slots), jnp.int32)
    return DecodeState(
        request=request,
        cache=cache,
        draft=_empty_draft(decoder, params, request),
        output_BO=output_BO,
        made_at_BO=output_BO,
        node_BO=output_BO,
        logprobs=logprobs.empty(batch, slots) if decoder.logprobs else None,
        num_new_B=zero_B,
        num_steps_B=zero_B,
        stopped_B=false_B,
        done_B=~false_B,
    )


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

    length_B = rows.cache.length_B
    new_draft = _draft(decoder, params, rows.request, length_B, rows.hidden_BD, rows.root_B)
    return DecodeState(
        request=jax.tree.map(put, state.request, rows.request),
        cache=kv_cache.insert(state.cache, rows.cache, slot_B),
        draft=jax.tree.map(put, state.draft, new_draft),
        output_BO=state.output_BO.at[slot_B].set(0),
        made_at_BO=state.made_at_BO.at[slot_B].set(0),
        node_BO=state.node_BO.at[slot_B].set(0),
        logprobs=logprobs.restart(state.logprobs, rows.logprob_B, slot_B),
        num_new_B=state.num_new_B.at[slot_B].set(0),
        num_steps_B=state.num_steps_B.at[slot_B].set(0),
        stopped_B=state.stopped_B.at[slot_B].set(False),
        done_B=state.done_B.at[slot_B].set(rows.request.budget_B <= 0),
    )


def grow(decoder: Decoder, params: Any, state: DecodeState, *, capacity: int) -> DecodeState:
    """The same batch with a larger cache, of `capacity` slots or a few more."""
    del params
    state = dataclasses.replace(state, cache=kv_cache.resized(state.cache, capacity))
    return _resized(state, _output_size(decoder, state.cache.capacity))


def switch(decoder: Decoder, params: Any, state: DecodeState) -> DecodeState:
    """The same batch for another drafter: the next step has the roots alone, in its draft's shape.

    Args:
      decoder: with the new drafter.
      params: {"backbone", "drafter"}, of the new drafter too.
      state: made with another one; its cache has room for the deeper of both.
    """
    empty = _empty_draft(decoder, params, state.request)
    token_BR = empty.token_BR.at[:, 0].set(state.draft.token_BR[:, 0])
    state = dataclasses.replace(state, draft=dataclasses.replace(empty, token_BR=token_BR))
    return _resized(state, _output_size(decoder, state.cache.capacity))


def _empty_draft(decoder: Decoder, params: Any, request: Request) -> Draft:
    """Zeros in the shapes of the decoder's drafts, with nodes that see themselves alone."""
    batch = request.budget_B.shape[0]
    zero_B = jnp.zeros((batch,), jnp.int32)
    hidden_BD = jnp.zeros((batch, decoder.model.hidden_size), jnp.dtype(decoder.dtype))
    like: Draft = jax.eval_shape(
        lambda *args: _draft(decoder, *args), params, request, zero_B, hidden_BD, zero_B
    )
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), like)
    own_RR = jnp.eye(like.mask_BRR.shape[1], dtype=jnp.bool_)
    return dataclasses.replace(zeros, mask_BRR=jnp.broadcast_to(own_RR, like.mask_BRR.shape))


def _resized(state: DecodeState, size: int) -> DecodeState:
    """The state with this many slots for emitted tokens, in which those so far have room."""

    def resized(x_BO: jax.Array) -> jax.Array:
        return jnp.pad(x_BO, ((0, 0), (0, max(size - x_BO.shape[1], 0))))[:, :size]

    probs = state.logprobs
    return dataclasses.replace(
        state,
        output_BO=resized(state.output_BO),
        made_at_BO=resized(state.made_at_BO),
        node_BO=resized(state.node_BO),
        logprobs=probs and dataclasses.replace(probs, output_BO=resized(probs.output_BO)),
    )


def decode(
    decoder: Decoder,
    params: Any,
    state: DecodeState,
    halted_B: jax.Array,
    max_steps: jax.Array,
    max_done: jax.Array,
) -> tuple[DecodeState, Progress]:
    """Steps until the host has to look: the numbers that say when are arguments.

    Args:
      decoder: static description.
      params: {"backbone", "drafter"}.
      state: of a batch of B rows.
      halted_B: bool, rows that are done from now on, whatever they have asked for.
      max_steps: int32, most steps.
      max_done: int32 below B; the steps go on while no more rows than this are done.

    Returns:
      The state when that many rows are done, the steps are taken, or the next step of some row
      might not fit the cache (see `grow`); and what the host reads of it.
    """
    state = dataclasses.replace(state, done_B=state.done_B | halted_B)

    def goes_on(carry):
        state, steps = carry
        full_B = _is_full(decoder, state.cache) & ~state.done_B
        num_done = state.done_B.sum(dtype=jnp.int32)
        return (num_done <= max_done) & (steps < max_steps) & ~full_B.any()

    def body(carry):
        state, steps = carry
        return _step(decoder, params, state), steps + jnp.int32(1)

    state, steps = jax.lax.while_loop(goes_on, body, (state, jnp.int32(0)))
    progress = Progress(
        output_BO=state.output_BO,
        made_at_BO=state.made_at_BO,
        node_BO=state.node_BO,
        logprobs=state.logprobs,
        num_new_B=state.num_new_B,
        num_steps_B=state.num_steps_B,
        stopped_B=state.stopped_B,
        done_B=state.done_B,
        root_B=state.draft.token_BR[:, 0],
        steps=steps,
    )
    return state, progress


def _step(decoder: Decoder, params: Any, state: DecodeState) -> DecodeState:
    """Verifies the draft, commits and emits the accepted path, drafts the next tree."""
    draft, cache = state.draft, state.cache
    if draft.token_BR.shape == (1, 1):
        draft = root_draft(draft.token_BR[:, 0], decoder.lone_nodes)
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
        # The write must come after every read of the old cache, or XLA copies the whole cache
        # first. A tree's choice of nodes implies that order; without a tree, the next root (never
        # negative, which XLA does not know) has to.
        start_B = cache.length_B + jnp.minimum(verdict.next_root_B, 0)
        cache = dataclasses.replace(cache, length_B=start_B)
        cache = kv_cache.append(cache, new, num_B, decoder.mesh, verdict.nodes_BA)
    num_new_B = state.num_new_B + num_B
    ended_B = stopped_B | (num_new_B >= state.request.budget_B)
    made_at_BA = jnp.broadcast_to(state.num_steps_B[:, None], token_BA.shape)
    hidden_BD = pick(hidden_BRD, verdict.last_B)
    return DecodeState(
        request=state.request,
        cache=cache,
        draft=_draft(
            decoder, params, state.request, cache.length_B, hidden_BD, verdict.next_root_B
        ),
        output_BO=write_output(state.output_BO, token_BA, state.num_new_B),
        made_at_BO=write_output(state.made_at_BO, made_at_BA, state.num_new_B),
        node_BO=write_output(state.node_BO, verdict.nodes_BA, state.num_new_B),
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

    def rank(logits_BXV: jax.Array, distance_X: jax.Array, token_V: jax.Array | None) -> jax.Array:
        biased_BXV = request.biased(logits_BXV, token_V)
        position_BX = position_B[:, None] + distance_X[None]
        return decoder.rule.rank(biased_BXV, request, position_BX, token_V)

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


def _is_full(decoder: Decoder, cache: KVCache) -> jax.Array:
    """Whether one more step might not fit."""
    return cache.length_B + (decoder.drafter.max_depth + 1) > cache.capacity


def _output_size(decoder: Decoder, capacity: int) -> int:
    """A slot for each token that a row can emit, and slack: no write ever shifts back over one."""
    return capacity + decoder.drafter.max_depth + 1
