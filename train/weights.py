"""What tells the weights of one model from those of another with the same name."""

import functools
import hashlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from medusa_jax import MedusaLM
from medusa_jax.mesh import mesh_of
from medusa_jax.sharding import replicated


def first_rows(lm: MedusaLM) -> bytes:
    """The first row of every parameter of the backbone, in float32.

    Another model differs in them, whatever else it shares. Every process that shares the model has
    to call this.
    """
    rows = jax.tree.leaves(_program(mesh_of(lm.params))(lm.params))
    return b"".join(np.asarray(row).tobytes() for row in rows)


@functools.cache
def _program(mesh: Mesh | None) -> Callable[[Any], Any]:
    """Kept, since a run needs it up to three times: for its data's two parts and its own note."""
    options: dict[str, Any] = {} if mesh is None else {"out_shardings": replicated(mesh)}
    return jax.jit(
        lambda params: jax.tree.map(lambda x: x[:1].astype(jnp.float32), params), **options
    )


def weights_digest(lm: MedusaLM) -> str:
    """16 hexadecimal digits of `first_rows`."""
    return hashlib.sha256(first_rows(lm)).hexdigest()[:16]
