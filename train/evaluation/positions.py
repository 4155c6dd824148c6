"""Losses and ranks at single positions, for as many of them as have logits at the same time."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from medusa_jax.config import MedusaConfig
from medusa_jax.gpu import product_options
from medusa_jax.nn.branch import correction
from medusa_jax.nn.heads import MedusaHeads
from medusa_jax.nn.layers import take_rows
from medusa_jax.objectives.accuracy import followed_nodes, label_rank
from medusa_jax.objectives.cross_entropy import cross_entropy
from medusa_jax.objectives.logits import lm_head_logits
from medusa_jax.tree.build import Tree


def score_positions(
    config: MedusaConfig | None,
    dtype: str,
    params: dict[str, Any],
    tree: Tree,
    hidden_TD: jax.Array,
    next_TM: ArrayLike,
    labels_TJ: ArrayLike,
) -> dict[str, jax.Array]:
    """Scores T positions, in any order.

    Args:
      config: of the heads, if there are any.
      dtype: compute dtype.
      params: of `medusa_jax.objectives.logits.scoring_params`.
      tree: at most as deep as there are heads.
      hidden_TD: the backbone's hidden states.
      next_TM: int32, the M tokens after each position.
      labels_TJ: int32, the base head's in V, the heads' in their vocabulary; IGNORE or OUTSIDE.

    Returns:
      "lm_loss" [T], "head_loss" [T, M]; "rank" [T, M], see `label_rank`; and "followed" [T], the
      nodes of the tree that the labels follow where the base head has a label.
    """
    return _program(dtype)(config, dtype, params, tree, hidden_TD, next_TM, labels_TJ)


@functools.cache
def _program(dtype: str) -> Any:
    return jax.jit(_score, static_argnums=(0, 1), compiler_options=product_options(dtype))


def _score(
    config: MedusaConfig | None,
    dtype: str,
    params: dict[str, Any],
    tree: Tree,
    hidden_TD: jax.Array,
    next_TM: jax.Array,
    labels_TJ: jax.Array,
) -> dict[str, jax.Array]:
    base_TV = lm_head_logits(params["base"], hidden_TD, dtype=dtype)
    lm_loss_T = cross_entropy(base_TV, labels_TJ[:, 0])
    if config is None:
        empty_TM = jnp.zeros(labels_TJ[:, 1:].shape, jnp.float32)
        loss_TM, rank_TM = empty_TM, empty_TM.astype(jnp.int32)
    else:
        branch_TJD = None
        if config.sees_root:
            branch_TJD = take_rows(params["embed"], next_TM[:, : config.tokens_seen])
        logits_of, parts = _each_head(config, dtype, params, hidden_TD, branch_TJD)

        def score(head: Any) -> tuple[jax.Array, jax.Array]:
            part, labels_T = head
            logits_TV = logits_of(part)
            return cross_entropy(logits_TV, labels_T), label_rank(logits_TV, labels_T)

        # Head by head, so that no more logits exist at once than those of the base head.
        loss_MT, rank_MT = jax.lax.map(score, (parts, labels_TJ[:, 1:].T))
        loss_TM, rank_TM = loss_MT.T, rank_MT.T
    followed_T = jnp.where(labels_TJ[:, 0] < 0, 0, followed_nodes(tree, rank_TM))
    return {"lm_loss": lm_loss_T, "head_loss": loss_TM, "rank": rank_TM, "followed": followed_T}


def _each_head(
    config: MedusaConfig,
    dtype: str,
    params: dict[str, Any],
    hidden_TD: jax.Array,
    branch_TJD: jax.Array | None,
) -> tuple[Callable[[Any], jax.Array], Any]:
    """A function from a head's part to its logits [T, V], and the parts of all heads, [M, ...]."""
    heads, variables = MedusaHeads(config, jnp.dtype(dtype)), {"params": params["heads"]}
    x_TMD: Any = heads.apply(variables, hidden_TD, branch_TJD, method="hidden")

    def logits_of(part: Any) -> jax.Array:
        x_TD, before_TD, lm_head = part
        logits_TV = lm_head_logits(lm_head or params["shared"], x_TD, dtype=dtype)
        if before_TD is None:
            return logits_TV
        return logits_TV + correction(params["heads"], x_TD, before_TD, jnp.dtype(dtype))

    before_MTD = None
    if branch_TJD is not None and config.corrects:
        before_MTD = jnp.swapaxes(branch_TJD, 0, 1)
    own = params["heads"]["projection"] if config.own_projection else {}
    return logits_of, (jnp.swapaxes(x_TMD, 0, 1), before_MTD, own)
