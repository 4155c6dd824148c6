"""Runs a batch of encoded prompts: bucketed shapes, kept executables, compilation timed apart."""

import dataclasses
import time
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from medusa_jax.decoding import step as decode
from medusa_jax.decoding.step import Decoder, DecodeState, Request
from medusa_jax.model import MedusaLM
from medusa_jax.nn.llama import lm_head_weight

ALL_STEPS = np.iinfo(np.int32).max
_MIN_PROMPT_BUCKET = 32
_MIN_CAPACITY = 256
_EOS_SLOTS = 8
# Ctrl-C waits for the call in flight, and a call costs a few milliseconds.
_FIRST_STEPS = 4
_CALL_SECONDS = 0.5


@dataclasses.dataclass
class Clock:
    """Seconds spent on a batch, compilation apart."""

    compile: float = 0.0
    prefill: float = 0.0
    decode: float = 0.0


@dataclasses.dataclass(frozen=True)
class Batch:
    """A batch in flight.

    Attributes:
      decoder: the compiled step's static description.
      request: budgets, thresholds and keys.
      state: carry of the decode loop.
      clock: what it cost so far.
    """

    decoder: Decoder
    request: Request
    state: DecodeState
    clock: Clock


def make_request(
    budgets: Sequence[int],
    eos_ids: Sequence[int] = (),
    *,
    temperature: float = 0.0,
    epsilon: float = 0.09,
    delta: float = 0.3,
    seed: int = 0,
    numbers: Sequence[int] | None = None,
) -> Request:
    """Puts a request on the device; row i draws from the key of prompt number numbers[i] (or i)."""
    slots = max(_EOS_SLOTS, len(eos_ids))
    eos = [*eos_ids, *[-1] * (slots - len(eos_ids))]
    numbers = range(len(budgets)) if numbers is None else numbers
    number_B = jax.device_put(np.asarray(numbers, np.uint32))
    keys_B = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(seed), number_B)
    return Request(
        budget_B=jax.device_put(np.asarray(budgets, np.int32)),
        eos_E=jax.device_put(np.asarray(eos, np.int32)),
        temperature=jax.device_put(np.float32(temperature)),
        epsilon=jax.device_put(np.float32(epsilon)),
        delta=jax.device_put(np.float32(delta)),
        keys_B=keys_B,
    )


def start(
    lm: MedusaLM, decoder: Decoder, request: Request, encoded: Sequence[Sequence[int]], budget: int
) -> Batch:
    """Runs the prompts.

    Args:
      lm: the model.
      decoder: static description of the step.
      request: one row per prompt and perhaps more, which pad the batch with a budget of 0.
      encoded: token ids of the prompts.
      budget: largest budget in the request, which sizes the cache.
    """
    width, capacity = batch_shape(lm, max(len(ids) for ids in encoded), budget)
    prompt = np.zeros((request.budget_B.shape[0], width), np.int32)
    length = np.ones((prompt.shape[0],), np.int32)
    for i, ids in enumerate(encoded):
        prompt[i, : len(ids)] = ids
        length[i] = len(ids)
    clock = Clock()
    arrays = (lm.tree, request, jax.device_put(prompt), jax.device_put(length))
    prefill = _compiled(lm, clock, decode.prefill, decoder, arrays, capacity=capacity)
    begin = time.perf_counter()
    state = jax.block_until_ready(prefill(active_params(lm), *arrays))
    clock.prefill += time.perf_counter() - begin
    return Batch(decoder, request, state, clock)


def batch_shape(lm: MedusaLM, longest: int, budget: int) -> tuple[int, int]:
    """Width of the prompts and slots of the cache that a batch is compiled for.

    Args:
      lm: the model.
      longest: tokens of the longest prompt.
      budget: largest budget of new tokens.
    """
    width = _bucket(longest, _MIN_PROMPT_BUCKET)
    return width, _bucket(max(width, longest + budget + lm.tree.max_depth + 1), _MIN_CAPACITY)


def advance(lm: MedusaLM, batch: Batch, max_steps: int = ALL_STEPS) -> Batch:
    """Takes up to `max_steps` steps; consumes the batch's state."""
    arrays = (lm.tree, batch.request, batch.state, jax.device_put(np.int32(max_steps)))
    run = _compiled(lm, batch.clock, decode.decode, batch.decoder, arrays)
    begin = time.perf_counter()
    state = jax.block_until_ready(run(active_params(lm), *arrays))
    batch.clock.decode += time.perf_counter() - begin
    return dataclasses.replace(batch, state=state)


def finish(lm: MedusaLM, batch: Batch) -> Batch:
    """Steps until every row is done, in calls short enough for Ctrl-C to get through."""
    steps = _FIRST_STEPS
    while not jax.device_get(batch.state.done_B).all():
        before = batch.clock.decode
        batch = advance(lm, batch, steps)
        steps = max(1, int(steps * _CALL_SECONDS / (batch.clock.decode - before)))
    return batch


def make_decoder(lm: MedusaLM, acceptance: str = "greedy", sampled_root: bool = False) -> Decoder:
    """The step of lm's tree: heads deeper than the tree are left out."""
    heads, depth = lm.heads_config, lm.tree.max_depth
    if heads is not None:
        heads = dataclasses.replace(heads, num_heads=depth) if depth else None
    return Decoder(lm.config, heads, lm.dtype, acceptance, sampled_root)


def active_params(lm: MedusaLM) -> dict[str, Any]:
    """Parameters that lm's tree reads, in the layout of `decode.prefill`."""
    depth, heads = lm.tree.max_depth, lm.heads_config
    if depth == 0 or heads is None or lm.heads_params is None:
        return {"backbone": lm.params}
    key = ("params", depth)
    if key not in lm.executables:
        per_head = {k: v for k, v in lm.heads_params.items() if k != "token_map"}
        if depth < heads.num_heads:
            per_head = jax.tree.map(lambda x: x[:depth], per_head)
        active: dict[str, Any] = {"backbone": lm.params, "heads": lm.heads_params | per_head}
        if heads.draft_vocab and not heads.own_projection:
            active["draft_lm_head"] = lm_head_weight(lm.params)[lm.heads_params["token_map"]]
        lm.executables[key] = active
    return lm.executables[key]


def _bucket(size: int, smallest: int) -> int:
    """Next size of 2^n or 3 * 2^(n-1): few shapes, few compilations, a quarter of padding."""
    power = 1 << (size - 1).bit_length()
    return max(smallest, power * 3 // 4 if size <= power * 3 // 4 else power)


def _compiled(
    lm: MedusaLM, clock: Clock, function: Any, decoder: Decoder, arrays: Any, **static: Any
) -> Any:
    """The function's executable for these shapes, compiled at its first use."""
    shapes = tuple((x.shape, str(x.dtype)) for x in jax.tree.leaves(arrays))
    key = (function.__name__, decoder, shapes, jax.tree.structure(arrays), *static.items())
    if key not in lm.executables:
        begin = time.perf_counter()
        lowered = function.lower(decoder, active_params(lm), *arrays, **static)
        lm.executables[key] = lowered.compile()
        clock.compile += time.perf_counter() - begin
    return lm.executables[key]
