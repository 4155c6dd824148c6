"""What tests of decoding's plan ask for: a model of two layers, with heads."""

import dataclasses

from infer.planning.abstract import Wish
from medusa_jax.config import LlamaConfig, MedusaConfig
from medusa_jax.tree.presets import load_any_tree

# Large enough that a TPU's compiler does not keep all of it in the core's own memory.
CONFIG = LlamaConfig(
    vocab_size=32768,
    hidden_size=2048,
    intermediate_size=8192,
    num_layers=2,
    num_heads=16,
    num_kv_heads=8,
    head_dim=128,
    max_position=4096,
)
HEADS = MedusaConfig(num_heads=5, hidden_size=2048, vocab_size=32768)


def wish(tree: str, platform: str) -> Wish:
    return Wish(
        config=CONFIG,
        heads=dataclasses.replace(HEADS, own_projection=False),
        tree=load_any_tree(tree),
        batch_size=1,
        max_context=1000,
        dtype="bfloat16",
        quantize="none",
        platform=platform,
    )


MATRICES = 2 * (2 * 2048 * 2048 + 2 * 1024 * 2048 + 3 * 8192 * 2048)
