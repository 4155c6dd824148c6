"""What tells the weights of one model from those of another with the same name."""

import hashlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from medusa_jax import MedusaLM
from medusa_jax.sharding import mesh_of, replicated


def first_rows(lm: MedusaLM) -> bytes:
    """The first row of every parameter of the backbone, in float32: each matrix has changed there.

    Every process that shares the model has to call this.
    """
    mesh = mesh_of(lm.params)
    options: dict[str, Any] = {} if mesh is None else {"out_shardings": replicated(mesh)}
    rows = jax.jit(
        lambda params: jax.tree.map(lambda x: x[:1].astype(jnp.float32), params), **options
    )
    return b"".join(np.asarray(row).tobytes() for row in jax.tree.leaves(rows(lm.params)))


def weights_digest(lm: MedusaLM) -> str:
    """16 hexadecimal digits of `first_rows`."""
    return hashlib.sha256(first_rows(lm)).hexdigest()[:16]
