"""MEDUSA multi-head speculative decoding for Llama-style language models in JAX/Flax.

>>> import medusa_jax
>>> lm = medusa_jax.load()  # SmolLM2-135M-Instruct with the heads that ship with the package
>>> print(medusa_jax.generate(lm, ["Why is the sky blue?"])[0].text)
"""

from medusa_jax.decoding.generate import (
    generate,
    generate_as_done,
    generate_batches,
    stream,
)
from medusa_jax.decoding.options import GenerationConfig
from medusa_jax.decoding.results import Generation, StreamEvent
from medusa_jax.decoding.session import Session
from medusa_jax.errors import UserError
from medusa_jax.io.load import load
from medusa_jax.model import MedusaLM

__all__ = [
    "Generation",
    "GenerationConfig",
    "MedusaLM",
    "Session",
    "StreamEvent",
    "UserError",
    "generate",
    "generate_as_done",
    "generate_batches",
    "load",
    "stream",
]
