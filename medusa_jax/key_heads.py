"""Key heads for every device of a mesh that decodes: repeated where the model has too few."""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from medusa_jax.config import LlamaConfig
from medusa_jax.errors import UserError
from medusa_jax.sharding import param_shardings


def decoding_config(config: LlamaConfig, mesh: Mesh | None) -> LlamaConfig:
    """The same network for decoding on a mesh: as many key heads as "tensor" can split.

    A device needs the keys and values of the heads that it computes, and no others. If there are
    more devices than key heads, each key head is there several times (`with_repeated_heads`).

    Raises:
      UserError: "tensor" does not divide the attention heads, or not those of one key head.
    """
    tensor = 1 if mesh is None else mesh.shape["tensor"]
    N, K = config.num_heads, config.num_kv_heads
    if N % math.lcm(K, tensor):
        sizes = [size for size in range(1, N + 1) if N % math.lcm(K, size) == 0]
        raise UserError(
            f"the mesh has tensor={tensor}, the model {N} attention heads and {K} key heads: "
            f"choose a size of tensor among {', '.join(map(str, sizes))}"
        )
    return dataclasses.replace(config, num_kv_heads=math.lcm(K, tensor))


def with_repeated_heads(
    params: dict[str, Any], config: LlamaConfig, mesh: Mesh | None
) -> tuple[LlamaConfig, dict[str, Any]]:
    """A backbone as `decoding_config` describes it: it computes the same as before.

    Args:
      params: of the backbone, on the mesh; its matrices may be quantised.
      config: of the same.
      mesh: see `decoding_config`.

    Returns:
      Configuration and parameters, in which every key head is there as often as it has to be.
    """
    wanted = decoding_config(config, mesh)
    times = wanted.num_kv_heads // config.num_kv_heads
    if mesh is None or times == 1:
        return wanted, params
    repeat = functools.partial(_repeated, config.head_dim, times)

    def of_layer(layer: dict[str, Any]) -> dict[str, Any]:
        keys = {name: layer["attn"][name] for name in ("k", "v")}
        shardings = param_shardings(mesh, jax.eval_shape(repeat, keys))
        keys = jax.jit(repeat, out_shardings=shardings)(keys)
        return layer | {"attn": layer["attn"] | keys}

    return wanted, {k: of_layer(v) if k.startswith("layers_") else v for k, v in params.items()}


def _repeated(head_dim: int, times: int, keys: Any) -> Any:
    """Repeats the rows of every array, those of a head together."""

    def repeated(x: jax.Array) -> jax.Array:
        heads = x.reshape(-1, head_dim, *x.shape[1:])
        return jnp.repeat(heads, times, axis=0).reshape(-1, *x.shape[1:])

    return jax.tree.map(repeated, keys)
