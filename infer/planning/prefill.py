"""Plans prefill: a prompt as long as the context, chunk by chunk, as `infer.generate` runs it."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from infer.planning.abstract import DecodeProgram, Wish, decode_program
from infer.planning.decoding import CHANGE
from medusa_jax.decoding import prefill, programs
from medusa_jax.decoding.buckets import cache_slots, prompt_width
from medusa_jax.decoding.drafting.drafters import NoDrafter
from medusa_jax.decoding.engine.chunks import CHUNK
from medusa_jax.io.atomic import write_text
from medusa_jax.nn.prefix_attention import reads_valid_slots
from medusa_jax.plan.build import Built, build, sizes_of
from medusa_jax.plan.costs import costs_of
from medusa_jax.plan.estimate import Plan, common
from medusa_jax.plan.parse import parse
from medusa_jax.plan.topology import Topology
from medusa_jax.sharding import with_shardings


def plan_prefill(
    topology: Topology, where: Mesh | Any, wish: Wish, hlo: Path | None = None
) -> Plan:
    """What running one prompt of `wish.max_context` tokens takes, while a batch is in flight.

    Memory is that of a whole chunk at the end, with the cache of the batch and the heads beside it.
    The rest (operations, traffic, collectives, cycles) is that of a chunk in the middle of the
    prompt, times the number of chunks: what a chunk costs grows evenly with the tokens before it,
    or, without a kernel that reads only these, not at all. Tokens that fill no chunk are a narrower
    one.

    Args:
      topology: to compile for.
      where: a mesh of its devices, or one of them.
      wish: its rows wait in the batch; one prompt is run at a time.
      hlo: a folder for the optimized programs, prefill_last.txt and prefill_middle.txt; None: they
        are not kept.
    """
    decode = decode_program(wish, where)
    width = min(prompt_width(wish.max_context), CHUNK)
    chunks, rest = divmod(wish.max_context, CHUNK)
    slots = _slots(wish.max_context)
    last = _chunk(topology, decode, width, slots)
    costs = None
    if last.text is not None:
        middle = last  # where all slots are read, whatever is in them
        if reads_valid_slots(wish.platform, wish.config.head_dim, slots):
            before = max((chunks - 1) * CHUNK // 2, width)  # a chunk has to fit
            middle = _chunk(topology, decode, width, before)
        assert middle.text is not None
        costs = costs_of(parse(middle.text)) * max(chunks, 1)
        if chunks and rest:
            end = _chunk(topology, decode, prompt_width(rest), slots)
            assert end.text is not None
            costs += costs_of(parse(end.text))
        if hlo is not None:
            write_text(hlo / "prefill_last.txt", last.text)
            write_text(hlo / "prefill_middle.txt", middle.text)
    num_devices = where.size if isinstance(where, Mesh) else 1
    return Plan(**common(topology, num_devices, _beside(last, decode, slots), costs, CHANGE))


def _chunk(topology: Topology, decode: DecodeProgram, width: int, slots: int) -> Built:
    """`prefill.extend_rows` of one row's `width` tokens, on top of a cache."""
    decoder = dataclasses.replace(decode.decoder, drafter=NoDrafter())
    params = {"backbone": decode.arguments[0]["backbone"]}
    cache = _cache(decode, slots)
    tokens = jax.ShapeDtypeStruct((1, width), jnp.int32)
    number = jax.ShapeDtypeStruct((1,), jnp.int32)
    rest = (tokens, number, number)
    here = decode.arguments[-1].sharding
    arrays = (params, cache, *with_shardings(rest, (here,) * len(rest)))
    return build(
        topology,
        lambda: programs.compiled(prefill.extend_rows, (decoder, ()), decode.mesh, arrays)[0],
        {"backbone": params, "cache of the prompt": cache},
    )


def _cache(decode: DecodeProgram, slots: int) -> Any:
    """The cache of one prompt, abstract."""
    decoder = decode.decoder
    cache = jax.eval_shape(lambda: prefill.empty_rows(decoder, None, rows=1, capacity=slots))
    if decode.mesh is not None:
        return with_shardings(cache, programs.result_shardings(decode.mesh, cache))
    here = decode.arguments[-1].sharding
    return with_shardings(cache, jax.tree.map(lambda _: here, cache))


def _beside(built: Built, decode: DecodeProgram, slots: int) -> Built:
    """The program with what else is in memory: the batch's state, the drafter, the LM head."""
    sizes = sizes_of(decode.parts() | {"cache of the prompt": _cache(decode, slots)})
    held = sum(sizes.values())
    total = built.total_bytes
    if total is not None and built.argument_bytes is not None:
        total += held - built.argument_bytes
    return dataclasses.replace(built, argument_bytes=held, total_bytes=total, sizes=sizes)


def _slots(tokens: int) -> int:
    """Slots of the cache that `Chunks` makes for a prompt."""
    last = (tokens - 1) % CHUNK + 1
    return cache_slots(tokens - last + prompt_width(last))
