"""Prefill and the decode loop: a `lax.while_loop` over a fixed-size tree of proposed tokens.

A step verifies the R tokens of a tree with one pass of the backbone, commits the accepted path and
drafts the next tree from the hidden state of the last accepted node (paper, section 2.1). With a
tree of the root alone the same step is autoregressive decoding.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

from medusa_jax.config import LlamaConfig, MedusaConfig
from medusa_jax.decoding import cache as kv_cache
from medusa_jax.decoding import verify
from medusa_jax.decoding.cache import KVCache
from medusa_jax.nn.heads import MedusaHeads
from medusa_jax.nn.layers import take_rows
from medusa_jax.nn.llama import Llama, causal_mask
from medusa_jax.tree.build import Tree


@dataclasses.dataclass(frozen=True)
class Decoder:
    """What the compiled step depends on (a jit static).

    Attributes:
      model: architecture of the backbone.
      heads: the Medusa heads that the tree uses; None with a tree of the root alone.
      dtype: compute dtype, "float32" or "bfloat16".
      acceptance: "greedy" or "typical".
      sampled_root: draw the first token of each step from the truncated distribution instead of
        taking its most likely token ("typical" only; spec: root token).
    """

    model: LlamaConfig
    heads: MedusaConfig | None
    dtype: str = "float32"
    acceptance: str = "greedy"
    sampled_root: bool = False

    def run(self, params: Any, *args: Any, **kwargs: Any) -> Any:
        """Applies the backbone; see `Llama` for the arguments."""
        llama = Llama(self.model, jnp.dtype(self.dtype))
        return llama.apply({"params": params["backbone"]}, *args, **kwargs)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Request:
    """What varies from call to call: arrays, so that nothing recompiles.

    Attributes:
      budget_B: int32, new tokens that each row may emit; 0 for padding rows.
      eos_E: int32, token ids that end a row; -1 pads.
      temperature: float32 scalar; 0 is greedy.
      epsilon: float32 scalar, hard threshold of typical acceptance.
      delta: float32 scalar, factor of its entropy-dependent threshold.
      keys_B: one random key per row; drawn from by position, so a row's tokens do not depend on
        the rest of the batch.
    """

    budget_B: jax.Array
    eos_E: jax.Array
    temperature: jax.Array
    epsilon: jax.Array
    delta: jax.Array
    keys_B: jax.Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class DecodeState:
    """Carry of the decode loop.

    Attributes:
      cache: committed keys and values.
      token_BR: int32, the tree that the next step verifies; column 0 is the root.
      output_BO: int32, emitted tokens; the first num_new_B of each row count.
      num_new_B: int32, tokens emitted.
      num_steps_B: int32, backbone passes after prefill while the row was not done.
      stopped_B: bool, the row emitted an EOS token (its last one).
      done_B: bool, the row is stopped, has its budget, or has no room left in the cache.
    """

    cache: KVCache
    token_BR: jax.Array
    output_BO: jax.Array
    num_new_B: jax.Array
    num_steps_B: jax.Array
    stopped_B: jax.Array
    done_B: jax.Array


def _pick(x_BR: jax.Array, node_B: jax.Array) -> jax.Array:
    """x[b, node[b]] for every row; trailing axes are kept."""
    index = node_B.reshape(-1, *(1,) * (x_BR.ndim - 1))
    return jnp.take_along_axis(x_BR, index, axis=1).squeeze(1)


def _root(decoder: Decoder, request: Request, logits_BV: jax.Array, length_B: jax.Array):
    """First token of the next tree: the base model's own choice, always accepted."""
    if decoder.acceptance == "typical" and decoder.sampled_root:
        keys_B = jax.vmap(jax.random.fold_in)(request.keys_B, length_B)
        return verify.sample_typical(
            keys_B, logits_BV, request.temperature, request.epsilon, request.delta
        )
    return jnp.argmax(logits_BV, axis=-1).astype(jnp.int32)


def _draft(decoder: Decoder, params: Any, tree: Tree, hidden_BD: jax.Array, root_B: jax.Array):
    """Fills the tree with the heads' most likely tokens: int32 [B, R]."""
    if tree.max_depth == 0 or decoder.heads is None:
        return root_B[:, None]
    with jax.named_scope("medusa_heads"):
        heads = MedusaHeads(decoder.heads, jnp.dtype(decoder.dtype))
        lm_head_VD = params.get("draft_lm_head")
        if lm_head_VD is None and not decoder.heads.own_projection:
            lm_head_VD = decoder.run(params, method="lm_head_weight")
        embedding_VD = params["backbone"]["embed"]["weight"]
        root_BD = take_rows(embedding_VD, root_B) if decoder.heads.root_conditioned else None
        logits_BMV: Any = heads.apply({"params": params["heads"]}, hidden_BD, lm_head_VD, root_BD)
        _, top_BMk = jax.lax.top_k(logits_BMV, tree.top_k)
    if decoder.heads.draft_vocab:
        top_BMk = params["heads"]["token_map"][top_BMk]
    # Node at depth d with last rank r takes head d's r-th token; column 0 is overwritten.
    token_BR = top_BMk[:, jnp.maximum(tree.depth_R - 1, 0), tree.rank_R]
    return token_BR.astype(jnp.int32).at[:, 0].set(root_B)


def _accept(decoder: Decoder, request: Request, tree: Tree, token_BR, logits_BRV):
    if decoder.acceptance == "greedy":
        return verify.accept_greedy(
            tree, token_BR, jnp.argmax(logits_BRV, axis=-1).astype(jnp.int32)
        )
    return verify.accept_typical(
        tree, token_BR, logits_BRV, request.temperature, request.epsilon, request.delta
    )


def _emitted(request: Request, state: DecodeState, token_BA: jax.Array, num_B: jax.Array):
    """How many of the num_B accepted tokens a row emits, and whether EOS is the last of them."""
    slot_1A = jnp.arange(token_BA.shape[1], dtype=jnp.int32)[None]
    eos_BA = (token_BA[:, :, None] == request.eos_E[None, None]).any(-1) & (
        slot_1A < num_B[:, None]
    )
    to_eos_B = jnp.where(eos_BA.any(-1), jnp.argmax(eos_BA, axis=-1).astype(jnp.int32) + 1, num_B)
    room_B = request.budget_B - state.num_new_B
    stopped_B = eos_BA.any(-1) & (to_eos_B <= room_B) & ~state.done_B
    return jnp.where(state.done_B, 0, jnp.minimum(to_eos_B, room_B)), stopped_B


def _write_output(output_BO: jax.Array, token_BA: jax.Array, start_B: jax.Array) -> jax.Array:
    return jax.vmap(lambda row, token, i: jax.lax.dynamic_update_slice(row, token, (i,)))(
        output_BO, token_BA, start_B
    )


def _step(
    decoder: Decoder, params: Any, tree: Tree, request: Request, state: DecodeState
) -> DecodeState:
    """Verifies the tree, commits and emits the accepted path, drafts the next tree."""
    position_BR = state.cache.length_B[:, None] + tree.depth_R[None]
    hidden_BRD, new = decoder.run(
        params,
        state.token_BR,
        position_BR,
        tree.mask_RR[None],
        prefix=state.cache.layers,
        prefix_length_B=state.cache.length_B,
    )
    logits_BRV = decoder.run(params, hidden_BRD, method="logits")
    with jax.named_scope("verify"):
        accepted = _accept(decoder, request, tree, state.token_BR, logits_BRV)
    token_BA = jnp.take_along_axis(state.token_BR, accepted.nodes_BD, axis=1)
    num_B, stopped_B = _emitted(request, state, token_BA, accepted.num_B + 1)
    root_B = _root(
        decoder, request, _pick(logits_BRV, accepted.last_B), state.cache.length_B + num_B
    )
    with jax.named_scope("commit"):
        # The write must come after every read of the old cache, else XLA copies the whole cache
        # first. A tree's choice of nodes implies that; without one, the root's token (never
        # negative, which XLA does not know) has to.
        start_B = state.cache.length_B + jnp.minimum(root_B, 0)
        new = kv_cache.select(new, accepted.nodes_BD)
        cache = kv_cache.append(dataclasses.replace(state.cache, length_B=start_B), new, num_B)
    num_new_B = state.num_new_B + num_B
    stopped_B = state.stopped_B | stopped_B
    return DecodeState(
        cache=cache,
        token_BR=_draft(decoder, params, tree, _pick(hidden_BRD, accepted.last_B), root_B),
        output_BO=_write_output(state.output_BO, token_BA, state.num_new_B),
        num_new_B=num_new_B,
        num_steps_B=state.num_steps_B + (~state.done_B).astype(jnp.int32),
        stopped_B=stopped_B,
        done_B=state.done_B | _done(tree, request, cache, num_new_B, stopped_B),
    )


def _done(tree: Tree, request: Request, cache: KVCache, num_new_B, stopped_B) -> jax.Array:
    """A row ends at EOS, at its budget, or when one more step might not fit its cache."""
    full_B = cache.length_B + (tree.max_depth + 1) > cache.capacity
    return stopped_B | (num_new_B >= request.budget_B) | full_B


@functools.partial(jax.jit, static_argnames=("decoder", "capacity"))
def prefill(
    decoder: Decoder,
    params: Any,
    tree: Tree,
    request: Request,
    prompt_BT: jax.Array,
    length_B: jax.Array,
    *,
    capacity: int,
) -> DecodeState:
    """Runs the prompts and drafts the first tree.

    Args:
      decoder: static description.
      params: {"backbone": ..., "heads": ... (as many as the tree is deep), "draft_lm_head": [Vd, D]
        when the heads share an LM head over a draft vocabulary}.
      tree: buffers of the tree.
      request: what this call asks for.
      prompt_BT: int32, right-padded with anything.
      length_B: int32 prompt lengths, 1 <= length <= T.
      capacity: S, slots of the cache; at least T.

    Returns:
      The state before the first step.
    """
    B, T = prompt_BT.shape
    position_BT = jnp.broadcast_to(jnp.arange(T, dtype=jnp.int32)[None], (B, T))
    hidden_BTD, new = decoder.run(
        params,
        prompt_BT,
        position_BT,
        causal_mask(T),
        context_BT=jnp.broadcast_to(length_B[:, None], (B, T)),
    )
    empty = kv_cache.empty_cache(decoder.model, B, capacity, jnp.dtype(decoder.dtype))
    cache = kv_cache.append(empty, new, length_B)
    hidden_BD = _pick(hidden_BTD, length_B - 1)
    logits_BV = decoder.run(params, hidden_BD, method="logits")
    zero_B, false_B = jnp.zeros((B,), jnp.int32), jnp.zeros((B,), jnp.bool_)
    return DecodeState(
        cache=cache,
        token_BR=_draft(
            decoder, params, tree, hidden_BD, _root(decoder, request, logits_BV, length_B)
        ),
        # Slack, so that no row's write is ever shifted back over tokens that count.
        output_BO=jnp.zeros((B, capacity + tree.max_depth + 1), jnp.int32),
        num_new_B=zero_B,
        num_steps_B=zero_B,
        stopped_B=false_B,
        done_B=_done(tree, request, cache, zero_B, false_B),
    )


@functools.partial(jax.jit, static_argnames=("decoder",), donate_argnames=("state",))
def decode(
    decoder: Decoder,
    params: Any,
    tree: Tree,
    request: Request,
    state: DecodeState,
    max_steps: jax.Array,
) -> DecodeState:
    """Steps until every row is done, at most `max_steps` (int32 scalar) times; donates `state`."""

    def unfinished(carry):
        state, steps = carry
        return ~state.done_B.all() & (steps < max_steps)

    def body(carry):
        state, steps = carry
        return _step(decoder, params, tree, request, state), steps + jnp.int32(1)

    return jax.lax.while_loop(unfinished, body, (state, jnp.int32(0)))[0]
