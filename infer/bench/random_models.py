"""Models with random weights."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from medusa_jax.config import MedusaConfig
from medusa_jax.io.hf.weights import abstract_params
from medusa_jax.key_heads import decoding_config
from medusa_jax.model import MedusaLM
from medusa_jax.model_shapes import SHAPES, random_like
from medusa_jax.nn.heads import init_heads
from medusa_jax.sharding import param_shardings, with_shardings

NUM_HEADS = 5


def random_lm(
    shape: str, dtype: str, own_projection: bool, mesh: Mesh | None = None, quantize: str = "none"
) -> MedusaLM:
    """A model and five heads with random weights, made on the device; no tokenizer, no EOS.

    Args:
      shape: a key of `SHAPES`.
      dtype: of parameters and computation.
      own_projection: each head has a projection (format A), or all share the LM head (format C).
      mesh: devices to decode on; None: the default one.
      quantize: "none" or "int8".

    Raises:
      UserError: the mesh does not fit the shape.
    """
    config = decoding_config(SHAPES[shape], mesh)
    heads = MedusaConfig(
        num_heads=NUM_HEADS,
        hidden_size=config.hidden_size,
        vocab_size=config.vocab_size,
        own_projection=own_projection,
    )
    head = jax.ShapeDtypeStruct((config.vocab_size, config.hidden_size), jnp.dtype(dtype))
    head_shapes = jax.eval_shape(lambda w: init_heads(heads, w, jnp.dtype(dtype)), head)

    def random(shapes: Any, seed: int) -> Any:
        placed = shapes if mesh is None else with_shardings(shapes, param_shardings(mesh, shapes))
        return random_like(placed, seed, quantize)

    return MedusaLM(
        config=config,
        params=random(abstract_params(config, dtype), 0),
        heads_config=heads,
        heads_params=random(head_shapes, 1),
        dtype=dtype,
    )
