"""What every compiled function of decoding depends on besides shapes."""

import dataclasses
from typing import Any

import jax.numpy as jnp
from jax.sharding import Mesh

from medusa_jax.config import LlamaConfig
from medusa_jax.decoding.drafting.drafters import Drafter
from medusa_jax.decoding.rules.rule import Rule
from medusa_jax.nn.llama import Llama


@dataclasses.dataclass(frozen=True)
class Decoder:
    """Static description of a step (a jit static).

    Attributes:
      model: architecture of the backbone.
      rule: how tokens are accepted and chosen.
      drafter: what a step proposes.
      dtype: compute dtype: "float32", "bfloat16" or "float16".
      cache_dtype: what keys and values are kept in, see `cache.storage_dtype`.
      logprobs: whether log-probabilities of the emitted tokens are wanted.
      mesh: what the model is spread over; None: it is on one device.
      lone_nodes: what a lone root of a lone row is padded to, see `lone_nodes`.
    """

    model: LlamaConfig
    rule: Rule
    drafter: Drafter
    dtype: str = "float32"
    cache_dtype: str = "float32"
    logprobs: bool = False
    mesh: Mesh | None = None
    lone_nodes: int = 1

    def run(self, params: Any, *args: Any, **kwargs: Any) -> Any:
        """Applies the backbone; see `Llama` for the arguments."""
        llama = Llama(self.model, jnp.dtype(self.dtype), mesh=self.mesh)
        return llama.apply({"params": params["backbone"]}, *args, **kwargs)


def lone_nodes(platform: str) -> int:
    """Nodes of a lone row's step, at least.

    A TPU runs eight as fast as one, which it would transpose and pad between its products. On a CPU
    every row costs, and a GPU has products for one.
    """
    return 8 if platform == "tpu" else 1
