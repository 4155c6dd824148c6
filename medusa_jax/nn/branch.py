"""Heads that see their branch: what the tokens from the root on add to a head's own work.

With h the hidden state at t, x_{t+1} the root, e_j the embedding of x_{t+j} scaled to unit root
mean square, and head k the one that predicts x_{t+k+1} (all source papers in `MedusaConfig`):

  branch         B_1(h) = SiLU(W1 h + U_{k,1} e_1 + ... + U_{k,k} e_k + b1) + h
  recurrent      s_j = SiLU(S s_{j-1} + T e_j + c), s_0 = 0;  B_1(h) = SiLU(W1 h + O s_k + b1) + h
  markov         logits_k + C A e_k
  gated_markov   logits_k + C (sigmoid(G [y_k; A e_k]) * A e_k), y_k the head's last block

The first two run a head once for every branch; the others run all heads once and correct what they
say. "markov" and "gated_markov" heads are root-conditioned as well.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from medusa_jax.config import MedusaConfig
from medusa_jax.nn.layers import project, rounded


def unit_size(embedding: jax.Array) -> jax.Array:
    """float32 [..., D] of unit root mean square.

    Embeddings are much smaller than hidden states; unit size suits every model.
    """
    e = embedding.astype(jnp.float32)
    return e * jax.lax.rsqrt(jnp.mean(e * e, axis=-1, keepdims=True) + 1e-12)


def first_heads(params: dict[str, Any], depth: int) -> dict[str, Any]:
    """The first of "none", "root", "markov" or "gated_markov" heads, with all that heads share.

    Args:
      params: in the layout of `MedusaHeads`.
      depth: how many.
    """
    by_head = ("blocks", "root", "projection")
    return {
        name: jax.tree.map(lambda x: x[:depth], of_all) if name in by_head else of_all
        for name, of_all in params.items()
    }


def can_learn_to_see(found: MedusaConfig, wanted: MedusaConfig) -> bool:
    """Whether trained heads may go on learning as heads that see more.

    They cannot become recurrent ones, which share the matrices of their blocks.
    """
    less = ("none",) if wanted.conditioning == "root" else ("none", "root")
    if found.conditioning not in less or wanted.conditioning in (*less, "recurrent"):
        return False
    as_found = {"conditioning": found.conditioning, "markov_rank": found.markov_rank}
    return dataclasses.replace(wanted, **as_found) == found


def extended(params: dict[str, Any], fresh: dict[str, Any]) -> dict[str, Any]:
    """Heads that see more than before, but say the same, as nothing new has a weight yet.

    Args:
      params: those of the heads as they were.
      fresh: those of new heads of the other kind, see `init_heads`.
    """
    out = fresh | {name: params[name] for name in params if name in fresh}
    if "root" in params and "branch" in fresh:
        heads = np.arange(len(params["root"]["weight"]))
        of_root = fresh["branch"]["weight"].at[heads * (heads + 1) // 2]
        out["branch"] = {"weight": of_root.set(params["root"]["weight"])}
    return out


def own_params(config: MedusaConfig, params: dict[str, Any]) -> list[dict[str, Any]]:
    """What each head reads of the stacked parameters, block by block; no matrix is there twice.

    Args:
      config: of the heads, "branch" or "recurrent".
      params: in the layout of `MedusaHeads`.
    """
    blocks = params["blocks"]
    stacks, layers = blocks["weight"].shape[:2]
    cell = {name: own for name, own in params.items() if name.startswith("cell_")}
    heads = []
    for head in range(config.num_heads):
        stack = min(head, stacks - 1)
        own = [{"weight": _piece(blocks["weight"], stack, layer)} for layer in range(layers)]
        for layer, block in enumerate(own if config.bias else ()):
            block["bias"] = blocks["bias"][head, layer]
        first = head * (head + 1) // 2
        pairs = range(first, first + head + 1) if not cell else ()
        of_tokens = [{"weight": _piece(params["branch"]["weight"], pair)} for pair in pairs]
        heads.append({"blocks": own, "branch": of_tokens} | cell)
    return heads


def _piece(stack: Any, *index: int) -> Any:
    """A matrix of a stack; of a quantised one, its codes and its scales."""
    return jax.tree.map(lambda x: x[index], stack)


def branch_term(own: dict[str, Any], branch: jax.Array, dtype: Any) -> jax.Array:
    """What the branch adds to head k's first block.

    Args:
      own: the head's parameters, see `own_params`.
      branch: [..., k, D], embeddings of the k tokens from the root on.
      dtype: compute dtype.

    Returns:
      float32 [..., D].
    """
    e = unit_size(branch)
    if own["branch"]:
        of_token = [project(e[..., j, :], u["weight"], dtype) for j, u in enumerate(own["branch"])]
        return sum(of_token[1:], of_token[0])
    return project(_states(own, e, dtype)[-1], own["cell_out"]["weight"], dtype)


def branch_terms(
    config: MedusaConfig, params: dict[str, Any], branch: jax.Array, dtype: Any
) -> Any:
    """`branch_term` of all heads, [..., D] each; branch [..., M, D]. A cell takes M steps."""
    own = own_params(config, params)
    if config.conditioning == "branch":
        return [branch_term(o, branch[..., : m + 1, :], dtype) for m, o in enumerate(own)]
    states = _states(own[0], unit_size(branch), dtype)
    return [project(state, params["cell_out"]["weight"], dtype) for state in states]


def _states(own: dict[str, Any], e: jax.Array, dtype: Any) -> list[jax.Array]:
    """The cell's states, one after every token: float32 [..., k, D] -> k times [..., D]."""
    states: list[jax.Array] = []
    of_token = project(e, own["cell_token"]["weight"], dtype)  # reads its matrix once for all
    of_token += jnp.broadcast_to(own["cell_token"]["bias"].astype(jnp.float32), of_token.shape)
    for j in range(e.shape[-2]):
        y = of_token[..., j, :]
        if states:
            y = y + project(states[-1], own["cell_state"]["weight"], dtype)
        states.append(nn.silu(y))
    return states


def head_hidden(own: dict[str, Any], hidden: jax.Array, term: jax.Array, dtype: Any) -> jax.Array:
    """What a head projects.

    Args:
      own: its parameters, see `own_params`.
      hidden: [..., D].
      term: float32 [..., D], see `branch_term`; its axes may be 1 where those of `hidden` are not.
      dtype: compute dtype.

    Returns:
      [..., D] in `dtype`.
    """
    x = hidden.astype(dtype)
    with jax.named_scope("medusa_blocks"):
        for layer, block in enumerate(own["blocks"]):
            y = project(x, block["weight"], dtype)
            y = y + term if layer == 0 else y
            if "bias" in block:
                y = y + jnp.broadcast_to(block["bias"].astype(jnp.float32), y.shape)
            x = rounded(x.astype(jnp.float32) + nn.silu(y), dtype)
    return x


def correction(
    params: dict[str, Any], hidden: jax.Array, before: jax.Array, dtype: Any
) -> jax.Array:
    """What "markov" and "gated_markov" heads add to their logits.

    Args:
      params: of all heads.
      hidden: [..., D], what a head projects.
      before: [..., D], the embedding of the token right before the one to predict.
      dtype: compute dtype.

    Returns:
      float32 [..., V].
    """
    with jax.named_scope("medusa_correction"):
        z = project(unit_size(before), params["markov_in"]["weight"], dtype)
        if "markov_gate" in params:
            both = jnp.concatenate([hidden.astype(jnp.float32), z], axis=-1)
            z = z * jax.nn.sigmoid(project(both, params["markov_gate"]["weight"], dtype))
        return project(z, params["markov_out"]["weight"], dtype)
