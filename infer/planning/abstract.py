"""The decode program of a model that nobody has: shapes, dtypes and shardings, no numbers."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, SingleDeviceSharding

from medusa_jax.config import LlamaConfig, MedusaConfig
from medusa_jax.decoding import programs, step
from medusa_jax.decoding.buckets import cache_slots
from medusa_jax.decoding.cache import storage_dtype
from medusa_jax.decoding.decoder import Decoder, lone_nodes
from medusa_jax.decoding.drafting.drafters import Drafter, NoDrafter
from medusa_jax.decoding.drafting.make_drafter import make_drafter
from medusa_jax.decoding.rules.greedy import Greedy
from medusa_jax.decoding.state import Request
from medusa_jax.io.hf.weights import abstract_params
from medusa_jax.key_heads import decoding_config
from medusa_jax.nn.heads import init_heads
from medusa_jax.nn.quantize import int8
from medusa_jax.sharding import param_shardings, replicated, with_shardings
from medusa_jax.tree.dynamic import AnyTree

_EOS_SLOTS = 8


@dataclasses.dataclass(frozen=True)
class Wish:
    """What is to be decoded.

    Attributes:
      config: of the backbone.
      heads: of the Medusa heads.
      tree: what each step proposes.
      batch_size: rows.
      max_context: slots of each row's cache.
      dtype: of parameters and computation.
      quantize: "none" or "int8".
      platform: "tpu" or "gpu".
    """

    config: LlamaConfig
    heads: MedusaConfig
    tree: AnyTree
    batch_size: int
    max_context: int
    dtype: str
    quantize: str
    platform: str


@dataclasses.dataclass(frozen=True)
class DecodeProgram:
    """`step.decode` and its abstract arguments.

    Attributes:
      decoder: static description.
      arguments: params, state, and what says when to stop, with shardings.
      mesh: the one that they lie on; None: one device.
    """

    decoder: Decoder
    arguments: tuple[Any, ...]
    mesh: Mesh | None

    def compiled(self) -> Any:
        """Compiles it, as `Runtime.advance` does."""
        return programs.compiled(step.decode, (self.decoder, ()), self.mesh, self.arguments)[0]

    def parts(self) -> dict[str, Any]:
        """What takes memory, by name."""
        params, state, *_ = self.arguments
        rest = dataclasses.replace(state, cache=None)
        return {"cache": state.cache, "state": rest} | dict(params)


def decode_program(wish: Wish, where: Mesh | Any) -> DecodeProgram:
    """The program of a wish.

    Args:
      wish: what is to be decoded.
      where: a mesh, or the one device that has everything.

    Raises:
      UserError: the mesh does not divide the model's heads.
    """
    mesh = where if isinstance(where, Mesh) else None
    wish = dataclasses.replace(wish, config=decoding_config(wish.config, mesh))
    params = {"backbone": jax.eval_shape(lambda: _backbone(wish))}
    drafter, own = _drafter(wish, params["backbone"])
    if own is not None:
        params["drafter"] = own
    kept = storage_dtype(wish.dtype, wish.platform)
    alone = lone_nodes(wish.platform)
    decoder = Decoder(wish.config, Greedy(), drafter, wish.dtype, kept, False, mesh, alone)
    slots = cache_slots(wish.max_context, drafter.max_depth)
    state = jax.eval_shape(
        lambda p, r: step.idle(decoder, p, r, capacity=slots), params, _request(wish.batch_size)
    )
    bounds = (
        jax.ShapeDtypeStruct((wish.batch_size,), jnp.bool_),
        jax.ShapeDtypeStruct((), jnp.int32),
        jax.ShapeDtypeStruct((), jnp.int32),
    )
    if mesh is None:
        here = SingleDeviceSharding(where)
        arguments = _put((params, state, *bounds), lambda _: here)
        return DecodeProgram(decoder, arguments, None)
    whole = replicated(mesh)
    placed = (
        with_shardings(params, param_shardings(mesh, params)),
        with_shardings(state, programs.result_shardings(mesh, state)),
        *_put(bounds, lambda _: whole),
    )
    return DecodeProgram(decoder, placed, mesh)


def _put(tree: Any, sharding: Any) -> Any:
    return with_shardings(tree, jax.tree.map(sharding, tree))


def _backbone(wish: Wish) -> Any:
    shapes = abstract_params(wish.config, wish.dtype)
    params = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    return _quantized(wish, params)


def _quantized(wish: Wish, params: Any) -> Any:
    """Every matrix in 8 bits, as `int8_matrices` makes them for a real model."""
    if wish.quantize == "none":
        return params
    return jax.tree_util.tree_map_with_path(
        lambda path, value: int8(value) if path[-1].key == "weight" else value, params
    )


def _drafter(wish: Wish, backbone: Any) -> tuple[Drafter, Any]:
    """The drafter, and the shapes of what it reads; None: it reads nothing."""
    if wish.tree.R == 1:
        return NoDrafter(), None
    made: list[Drafter] = []

    def parameters(backbone: Any) -> Any:
        args = wish.heads, _heads(wish), backbone, wish.tree, wish.dtype, wish.platform
        drafter, params = make_drafter(*args)
        made.append(drafter)
        return params

    shapes = jax.eval_shape(parameters, backbone)
    return made[0], shapes


def _heads(wish: Wish) -> Any:
    """Heads of these shapes; which tokens a draft vocabulary has does not matter."""
    heads, dtype = wish.heads, jnp.dtype(wish.dtype)
    table = jnp.zeros((wish.config.vocab_size, wish.config.hidden_size), dtype)
    token_map = jnp.arange(heads.vocab_size, dtype=jnp.int32) if heads.draft_vocab else None
    return _quantized(wish, init_heads(heads, table, dtype, token_map))


def _request(rows: int) -> Any:
    """The request of rows that are decoded greedily."""
    return Request(
        budget_B=_array((rows,), jnp.int32),
        eos_BE=_array((rows, _EOS_SLOTS), jnp.int32),
        key_B2=_array((rows, 2), jnp.uint32),
        rule_numbers=(),
    )


def _array(shape: tuple[int, ...], dtype: Any) -> Any:
    return jax.ShapeDtypeStruct(shape, dtype)
