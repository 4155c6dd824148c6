"""Heads that see their branch, read slowly: one head at the end of one branch, in float64."""

import dataclasses

import jax.numpy as jnp
import numpy as np

from medusa_jax.config import MedusaConfig
from medusa_jax.model import MedusaLM
from tests.medusa_jax.head_params import conditioning
from tests.medusa_jax.tiny import CONFIG, tiny_lm

RANK = 3
KINDS = ("markov", "gated_markov", "branch", "recurrent")
# And whether they have projections of their own, where they can.
KINDS_AND_OWN = [*((kind, False) for kind in KINDS), ("markov", True), ("gated_markov", True)]


def heads_of(kind: str, **more) -> MedusaConfig:
    """Four heads of a kind, for the tiny model."""
    rank = RANK if "markov" in kind else 0
    size = {"hidden_size": CONFIG.hidden_size, "vocab_size": CONFIG.vocab_size}
    return MedusaConfig(4, **size | more, conditioning=kind, markov_rank=rank)


def branch_lm(
    kind: str, tree: str = "chain:0", token_map=None, num_layers: int = 1, own: bool = False
) -> MedusaLM:
    """The tiny model with random heads of a kind; own: with projections of their own."""
    lm = tiny_lm("chain:0")
    more = {} if token_map is None else {"vocab_size": len(token_map), "draft_vocab": True}
    more |= {"own_projection": own}
    config = heads_of(kind, num_layers=num_layers, **more)
    rng, D = np.random.default_rng(5), config.hidden_size

    def draw(*shape):
        return jnp.asarray(rng.normal(size=shape) * 0.4, jnp.float32)

    stacks = 1 if kind == "recurrent" else 4
    blocks = {"weight": draw(stacks, num_layers, D, D), "bias": draw(4, num_layers, D)}
    heads = {"blocks": blocks} | conditioning(config, draw, D)
    if token_map is not None:
        heads["token_map"] = jnp.asarray(token_map, jnp.int32)
    if own:
        heads["projection"] = {"weight": draw(4, config.vocab_size, D)}
    return dataclasses.replace(lm, heads_config=config, heads_params=heads).with_tree(tree)


def silu(x):
    return x / (1 + np.exp(-x))


def slow_logits(kind, params, head, hidden_D, branch, lm_head_VD, dtype=np.float64) -> np.ndarray:
    """Logits of head k = head + 1 behind the k tokens whose embeddings `branch` holds.

    Equations of the docstring of `medusa_jax.nn.branch`, matrix by matrix; what a matrix is
    multiplied by, and every block's result, is rounded to `dtype`.
    """

    def half(x):
        return np.asarray(np.asarray(x, dtype), np.float64)

    p = {
        module: {k: np.asarray(v, np.float64) for k, v in own.items()}
        for module, own in params.items()
        if module != "token_map"
    }
    e = [np.asarray(x, np.float64) for x in branch[: head + 1]]
    e = [x / np.sqrt(np.mean(x**2)) for x in e]
    seen = 0.0
    if kind in ("root", "markov", "gated_markov"):
        seen = p["root"]["weight"][head] @ half(e[0])
    if kind == "branch":
        first = sum(range(head + 1))
        seen = sum(p["branch"]["weight"][first + j] @ half(e[j]) for j in range(head + 1))
    if kind == "recurrent":
        state = np.zeros_like(e[0])
        for x in e:
            y = p["cell_state"]["weight"] @ half(state) + p["cell_token"]["weight"] @ half(x)
            state = silu(y + p["cell_token"]["bias"])
        seen = p["cell_out"]["weight"] @ half(state)
    x = np.asarray(hidden_D, np.float64)
    weight_LDD = p["blocks"]["weight"][0 if kind == "recurrent" else head]
    for layer, weight_DD in enumerate(weight_LDD):
        y = weight_DD @ x + p["blocks"]["bias"][head, layer]
        x = half(x + silu(y + (seen if layer == 0 else 0.0)))
    logits_V = np.asarray(lm_head_VD, np.float64) @ x
    if "markov" not in kind:
        return logits_V
    z = p["markov_in"]["weight"] @ half(e[head])
    if kind == "gated_markov":
        z = z / (1 + np.exp(-p["markov_gate"]["weight"] @ half(np.concatenate([x, z]))))
    return logits_V + p["markov_out"]["weight"] @ half(z)
