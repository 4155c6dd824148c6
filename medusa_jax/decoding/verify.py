"""Which tokens of a tree the base model accepts: pure functions of its logits at every node.

Each node is judged once, under the distribution at its parent; paths then gather their nodes'
verdicts. Sources: Medusa (arXiv 2401.10774), section 2.3.1; truncation after Hewitt et al. 2022.
"""

import dataclasses

import jax
import jax.numpy as jnp

from medusa_jax.tree.build import Tree

_ENTROPY_OFFSET = 1e-5  # inside the logarithm of the entropy, part of the published rule


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Accepted:
    """The accepted path of every row.

    Attributes:
      num_B: int32; accepted head tokens, 0 to the tree's depth (the root is always accepted).
      nodes_BD: int32 [B, max_depth + 1]; the root and the accepted nodes; entries beyond num_B
        repeat the last accepted node.
      last_B: int32; the last accepted node.
    """

    num_B: jax.Array
    nodes_BD: jax.Array
    last_B: jax.Array


def accept_greedy(tree: Tree, tokens_BR: jax.Array, best_BR: jax.Array) -> Accepted:
    """Accepts a node when it holds the base model's best token at its parent.

    Args:
      tree: the tree.
      tokens_BR: int32; token of each node.
      best_BR: int32; argmax of the base logits at each node.

    Returns:
      The longest accepted path; the first of them in the tree's order of paths.
    """
    ok_BR = tokens_BR == best_BR[:, tree.parent_R]
    return _longest(tree, ok_BR, jnp.zeros(ok_BR.shape, jnp.float32))


def accept_typical(
    tree: Tree,
    tokens_BR: jax.Array,
    logits_BRV: jax.Array,
    temperature: jax.Array | float,
    epsilon: jax.Array | float,
    delta: jax.Array | float,
) -> Accepted:
    """Accepts a node when q(token) > min(epsilon, delta * exp(-H(q))) at its parent.

    q is the softmax of logits / temperature. A parent's best token always passes for delta < 1
    and max q > 1e-5 * delta / (1 - delta), so this never accepts fewer tokens than `accept_greedy`.
    Temperature 0 is `accept_greedy` exactly, in the same compiled code.

    Args:
      tree: the tree.
      tokens_BR: int32; token of each node.
      logits_BRV: floating; base logits at each node.
      temperature: scalar >= 0.
      epsilon: scalar; the hard threshold.
      delta: scalar; factor of the entropy-dependent threshold.

    Returns:
      Among the longest accepted paths, the one with the highest sum of ln q; of equals the first.
    """
    logits_BRV = logits_BRV.astype(jnp.float32)
    log_q_BRV = _log_q(logits_BRV, temperature)
    threshold_BR = _threshold(log_q_BRV, epsilon, delta)
    row_B1 = jnp.arange(tokens_BR.shape[0], dtype=jnp.int32)[:, None]
    log_q_BR = log_q_BRV[row_B1, jnp.asarray(tree.parent_R)[None], tokens_BR]
    best_BR = jnp.argmax(logits_BRV, axis=-1).astype(jnp.int32)
    hot = _is_hot(temperature)
    typical_BR = jnp.exp(log_q_BR) > threshold_BR[:, tree.parent_R]
    ok_BR = jnp.where(hot, typical_BR, tokens_BR == best_BR[:, tree.parent_R])
    return _longest(tree, ok_BR, jnp.where(hot, log_q_BR, jnp.float32(0)))


def sample_typical(
    keys_B: jax.Array,
    logits_BV: jax.Array,
    temperature: jax.Array | float,
    epsilon: jax.Array | float,
    delta: jax.Array | float,
) -> jax.Array:
    """Samples from q restricted to the tokens with q >= min(epsilon, delta * exp(-H(q))).

    Args:
      keys_B: one random key for each row.
      logits_BV: floating; base logits.
      temperature: scalar >= 0; at 0 the best token is returned.
      epsilon: scalar; the hard threshold.
      delta: scalar; factor of the entropy-dependent threshold.

    Returns:
      int32 [B] tokens.
    """
    logits_BV = logits_BV.astype(jnp.float32)
    log_q_BV = _log_q(logits_BV, temperature)
    best_B = jnp.argmax(logits_BV, axis=-1).astype(jnp.int32)
    token_1V = jnp.arange(logits_BV.shape[-1], dtype=jnp.int32)[None]
    allowed_BV = jnp.exp(log_q_BV) >= _threshold(log_q_BV, epsilon, delta)[:, None]
    # Large thresholds would otherwise leave no token at all.
    allowed_BV |= token_1V == best_B[:, None]
    sampled_B = jax.vmap(jax.random.categorical)(
        keys_B, jnp.where(allowed_BV, log_q_BV, -jnp.inf)
    ).astype(jnp.int32)
    return jnp.where(_is_hot(temperature), sampled_B, best_B)


def _is_hot(temperature: jax.Array | float) -> jax.Array:
    """Whether the temperature is positive; subnormal numbers, which XLA flushes, count as 0."""
    return jnp.asarray(temperature, jnp.float32) >= jnp.finfo(jnp.float32).tiny


def _log_q(logits: jax.Array, temperature: jax.Array | float) -> jax.Array:
    """Log-probabilities of float32 logits [..., V]; of temperature 1 in place of 0.

    The maximum is taken off first: a small temperature then gives 0 and -inf, never NaN. XLA fuses
    this form; with `jax.nn.log_softmax`, a second array of this size stays alive.
    """
    divisor = jnp.where(_is_hot(temperature), jnp.asarray(temperature, jnp.float32), 1.0)
    peak = jnp.max(logits, axis=-1, keepdims=True)
    scaled = (logits - peak) / divisor
    return scaled - jnp.log(jnp.sum(jnp.exp(scaled), axis=-1, keepdims=True))


def _threshold(log_q: jax.Array, epsilon: jax.Array | float, delta: jax.Array | float) -> jax.Array:
    """min(epsilon, delta * exp(-H)) of log-probabilities [..., V]."""
    q = jnp.exp(log_q)
    entropy = -jnp.sum(q * jnp.log(q + _ENTROPY_OFFSET), axis=-1)
    soft = jnp.asarray(delta, jnp.float32) * jnp.exp(-entropy)
    return jnp.minimum(jnp.asarray(epsilon, jnp.float32), soft)


def _longest(tree: Tree, ok_BR: jax.Array, score_BR: jax.Array) -> Accepted:
    """Path with the longest run of accepted nodes below the root, then the highest score."""
    # The original reads padding as token 0 behind the last node, and may accept it.
    is_node_PD = jnp.asarray(tree.paths_PD >= 0)
    node_PD = jnp.maximum(jnp.asarray(tree.paths_PD), 0)
    ok_BPD = ok_BR[:, node_PD] & is_node_PD[None]
    run_BPD = jnp.cumprod(ok_BPD[:, :, 1:].astype(jnp.int32), axis=-1)
    score_BPD = jnp.where(run_BPD > 0, score_BR[:, node_PD[:, 1:]], 0.0)
    length_BP = jnp.sum(run_BPD, axis=-1, dtype=jnp.int32)
    num_B = jnp.max(length_BP, axis=-1)
    is_longest_BP = length_BP == num_B[:, None]
    best_B = jnp.argmax(jnp.where(is_longest_BP, jnp.sum(score_BPD, axis=-1), -jnp.inf), axis=-1)
    step_1D = jnp.arange(tree.max_depth + 1, dtype=jnp.int32)[None]
    clamped_BD = jnp.minimum(step_1D, num_B[:, None])
    nodes_BD = jnp.take_along_axis(node_PD[best_B], clamped_BD, axis=1)
    return Accepted(num_B=num_B, nodes_BD=nodes_BD, last_B=nodes_BD[:, -1])
