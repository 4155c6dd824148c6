"""Low-rank adapters on linear maps: W + (alpha / r) B A (Hu et al., 2021).

`Llama` takes them as an argument and adds their products to those of its weights; without the
argument the same weights are the original model.
"""

import dataclasses
import zlib
from typing import Any

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict

from medusa_jax.nn.layers import Linear, project
from medusa_jax.nn.params import untied


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Lora:
    """The adapters of a network, or of one of the modules inside it.

    Attributes:
      params: nested as the parameters that they adapt, as `init_lora` makes them; modules without
        an entry are left as they are.
      scale: alpha / r.
      dropout: share of the adapters' inputs that is dropped; needs `key`.
      key: of dropout; None: nothing is dropped.
    """

    params: dict[str, Any]
    scale: float = dataclasses.field(metadata={"static": True})
    dropout: float = dataclasses.field(default=0.0, metadata={"static": True})
    key: jax.Array | None = None

    def layer(self, number: Any, params: dict[str, Any] | None = None) -> "Lora | None":
        """The adapters of one decoder layer, if it has any.

        Their key depends only on the layer's number, which is the same whether layers are unrolled
        or scanned.

        Args:
          number: of the layer, from 0; an int32 scalar where layers are scanned.
          params: its adapters, where they are scanned too; None: they are looked up.
        """
        params = self.params.get(f"layers_{number}") if params is None else params
        layers = self._inside(params, _number(("layers",)))
        if layers is None or layers.key is None:
            return layers
        return dataclasses.replace(layers, key=jax.random.fold_in(layers.key, number))

    def part(self, name: str) -> "Lora | None":
        """The adapters of a module by its name, if it has any; each module drops other inputs."""
        return self._inside(self.params.get(name), _number((name,)))

    def _inside(self, params: dict[str, Any] | None, number: int) -> "Lora | None":
        if params is None:
            return None
        key = None if self.key is None else jax.random.fold_in(self.key, number)
        return dataclasses.replace(self, params=params, key=key)

    def __call__(self, x: jax.Array, dtype: Any) -> jax.Array:
        """What the adapter of one linear map adds to it: [..., in] -> float32 [..., out]."""
        x = dropped(x, self.dropout, self.key)
        return lora_product(self.params, x, self.scale, dtype)


def adapted(linear: Linear, x: jax.Array, lora: Lora | None) -> jax.Array:
    """linear(x), plus the product of its adapter where `lora` has one of the module's name.

    The sum is float32, and rounded to the linear map's dtype again.

    Args:
      linear: the map.
      x: [..., in], what both see; the adapter after dropout.
      lora: of the module that the linear map is in.
    """
    y, adapter = linear(x), lora and lora.part(str(linear.name))
    if adapter is None:
        return y
    return (y.astype(jnp.float32) + adapter(x, linear.dtype)).astype(y.dtype)


def init_lora(backbone: dict[str, Any], rank: int, key: jax.Array, dtype: Any) -> dict[str, Any]:
    """Adapters for every matrix of the layers and for the LM head; together they change nothing.

    Args:
      backbone: its parameters, or their shapes (`medusa_jax.io.hf.weights.abstract_params`).
      rank: r.
      key: for A; B is zero.
      dtype: of the adapters.

    Returns:
      Nested as the backbone: {"a": [r, in], "b": [out, r]} in place of each weight. A tied LM head
      has an entry of its own, "lm_head"; merging unties it.
    """
    adapters = {}
    for path, (num_out, num_in) in _adapted(backbone).items():
        own_key = jax.random.fold_in(key, _number(path))
        a = jax.random.uniform(own_key, (rank, num_in), jnp.float32, -1.0, 1.0) * num_in**-0.5
        adapters[(*path, "a")] = a.astype(dtype)
        adapters[(*path, "b")] = jnp.zeros((num_out, rank), dtype)
    return unflatten_dict(adapters)


def _adapted(backbone: dict[str, Any]) -> dict[tuple[str, ...], tuple[int, int]]:
    """Path of every adapted module and its (out, in)."""
    leaves: dict[tuple[str, ...], Any] = dict(flatten_dict(untied(backbone)))
    return {
        path[:-1]: leaf.shape
        for path, leaf in leaves.items()
        if path[0] != "embed" and path[-1] == "weight" and len(leaf.shape) == 2
    }


def _number(path: tuple[str, ...]) -> int:
    """A number per module that does not depend on the others (Python's hash changes per run)."""
    return zlib.crc32("/".join(path).encode())


def lora_product(
    adapter: dict[str, jax.Array], x: jax.Array, scale: float, dtype: Any
) -> jax.Array:
    """scale * B A x: [..., in] -> float32 [..., out]."""
    return project(project(x, adapter["a"], dtype), adapter["b"], dtype) * scale


def dropped(x: jax.Array, rate: float, key: jax.Array | None) -> jax.Array:
    """x with a share `rate` of its entries zeroed and the rest scaled up; x itself without key."""
    if key is None or rate == 0.0:
        return x
    keep = jax.random.bernoulli(key, 1.0 - rate, x.shape)
    return jnp.where(keep, x / (1.0 - rate), jnp.zeros((), x.dtype)).astype(x.dtype)


def merge_lora(params: dict[str, Any], lora: dict[str, Any], scale: float) -> dict[str, Any]:
    """The backbone with W + scale * B A in place of each adapted W, in W's dtype.

    Args:
      params: of the backbone.
      lora: as `init_lora` makes it.
      scale: alpha / r.

    Returns:
      The parameters; with an "lm_head" of their own even where it was tied to the embedding.
    """
    merged: dict[tuple[str, ...], Any] = dict(flatten_dict(untied(params)))
    for path, adapter in _by_path(lora).items():
        weight = merged[(*path, "weight")]
        merged[(*path, "weight")] = merge_weight(weight, adapter, scale)
    return unflatten_dict(merged)


def _by_path(lora: dict[str, Any]) -> dict[tuple[str, ...], Any]:
    """Every adapter {"a", "b"} by the path of its module."""
    return dict(flatten_dict(lora, is_leaf=lambda _, x: "a" in x))


def merge_weight(weight: jax.Array, adapter: dict[str, jax.Array], scale: float) -> jax.Array:
    """W + scale * B A in W's dtype: [out, in]."""
    a, b = (jnp.asarray(adapter[name], jnp.float32) for name in ("a", "b"))
    return (weight.astype(jnp.float32) + scale * jnp.matmul(b, a, precision="highest")).astype(
        weight.dtype
    )
