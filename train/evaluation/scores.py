"""Measures a model and its heads on tokenized conversations, teacher-forced.

Position t of a conversation gives one number per head: the rank of the token at t + k + 1 among
head k's logits. Losses, accuracies, the tree's expected yield and the walk all follow from these.
J = M + 1 counts the base head and the M Medusa heads.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from medusa_jax import MedusaLM
from medusa_jax.chat import Example
from medusa_jax.mesh import mesh_of
from medusa_jax.objectives.accuracy import TOP, expected_tokens
from medusa_jax.objectives.labels import IGNORE, to_draft_vocabulary
from medusa_jax.objectives.logits import scoring_params
from medusa_jax.sharding import logical_sharding
from medusa_jax.tree.build import Tree
from train.data.padded import (
    batches_of_like_length,
    following_tokens,
    hidden_and_labels,
    in_order,
    pad,
)
from train.distributed import own_share, sum_over_processes
from train.evaluation.positions import score_positions
from train.evaluation.walk import count_steps

RANKS = 20  # how many of a head's ranks are told apart
_BLOCK = 256  # positions whose logits exist at the same time
_TOKENS_PER_BATCH = 4096


@dataclasses.dataclass
class Scores:
    """Sums over conversations; M heads.

    Attributes:
      num_tokens: labels of the base head.
      lm_loss: sum of its cross-entropies.
      labels_M: labels of each head.
      covered_M: those within the heads' vocabulary.
      loss_M: cross-entropies over the covered ones.
      hits: [RANKS, M], labels among the 1 .. RANKS most likely tokens; only larger logits count
        against one.
      followed: tree nodes that the labels follow, over the positions of the base head's labels.
      steps: of the walk.
    """

    num_tokens: int
    lm_loss: float
    labels_M: np.ndarray
    covered_M: np.ndarray
    loss_M: np.ndarray
    hits: np.ndarray
    followed: int
    steps: int

    @classmethod
    def zero(cls, num_heads: int) -> "Scores":
        """The sums over no conversation at all."""
        count_M = np.zeros(num_heads, np.int64)
        hits = np.zeros((RANKS, num_heads), np.int64)
        return cls(0, 0.0, count_M, count_M, np.zeros(num_heads), hits, 0, 0)

    def __add__(self, other: "Scores") -> "Scores":
        names = [field.name for field in dataclasses.fields(self)]
        return Scores(*(getattr(self, name) + getattr(other, name) for name in names))

    def over_processes(self) -> "Scores":
        """The sums of all processes; every process calls it."""
        flat_N = np.concatenate([np.ravel(value) for value in vars(self).values()])
        parts = sum_over_processes(flat_N.astype(np.float64))
        whole = []
        for value in map(np.asarray, vars(self).values()):
            part, parts = parts[: value.size], parts[value.size :]
            part = part.astype(value.dtype).reshape(value.shape)
            whole.append(part if part.ndim else part.item())
        return Scores(*whole)

    def rank_accuracy(self) -> np.ndarray:
        """[M, RANKS], the share of each head's labels that are its token of each rank."""
        per_rank = np.diff(self.hits, axis=0, prepend=0)
        return (per_rank / np.maximum(self.labels_M, 1)).T

    def metrics(self) -> dict[str, Any]:
        """What a report says; None where there is nothing to average over."""
        report: dict[str, Any] = {
            "num_tokens": self.num_tokens,
            "lm_loss": _ratio(self.lm_loss, self.num_tokens),
            "head_loss": _ratios(self.loss_M, self.covered_M),
        }
        for k, hits_M in enumerate(self.hits[:TOP], 1):
            report[f"head_top{k}"] = _ratios(hits_M, self.labels_M)
        report["head_coverage"] = _ratios(self.covered_M, self.labels_M)
        report["expected_tokens_per_step"] = expected_tokens(self.followed, max(self.num_tokens, 1))
        return report


def _ratio(total: float, count: int) -> float | None:
    return float(total) / int(count) if count else None


def _ratios(total_M: np.ndarray, count_M: np.ndarray) -> list[float | None]:
    return [_ratio(total, count) for total, count in zip(total_M, count_M, strict=True)]


def score(
    lm: MedusaLM, tree: Tree, examples: Sequence[Example], advance: Callable[[int], None]
) -> Scores:
    """Measures every conversation by itself; those of like length share a batch, right-padded.

    Args:
      lm: the model, with heads or without.
      tree: at most as deep as there are heads.
      examples: tokenized conversations of all processes, each of which takes its share.
      advance: called with the number of conversations that have just been measured here.

    Returns:
      The sums over all of them.
    """
    total = Scores.zero(_num_heads(lm))
    params = scoring_params(lm.params, lm.heads_params)
    for batch in own_share(batches_of_like_length(examples, _TOKENS_PER_BATCH)):
        total = sum(_score_batch(lm, params, tree, batch), total)
        advance(len(batch))
    return total.over_processes()


def score_each(lm: MedusaLM, tree: Tree, examples: Sequence[Example]) -> list[Scores]:
    """What `score` gives for every conversation alone; for one process."""
    params, found = scoring_params(lm.params, lm.heads_params), []
    for batch in batches_of_like_length(examples, _TOKENS_PER_BATCH):
        found += _score_batch(lm, params, tree, batch)
    return in_order(examples, found)


def _num_heads(lm: MedusaLM) -> int:
    return 0 if lm.heads_config is None else lm.heads_config.num_heads


def _score_batch(lm: MedusaLM, params: Any, tree: Tree, batch: Sequence[Example]) -> list[Scores]:
    """The sums of every conversation by itself."""
    padded = pad(batch, _TOKENS_PER_BATCH)
    hidden_TD, labels_TJ = _forward(lm, padded)
    found = _positions(lm, params, tree, hidden_TD, labels_TJ, padded["token"].reshape(-1))
    found["labels"] = labels_TJ
    shape = padded["token"].shape
    rows = {name: x.reshape(*shape, *x.shape[1:]) for name, x in found.items()}
    return [_sums({name: x[row] for name, x in rows.items()}) for row in range(len(batch))]


def _positions(
    lm: MedusaLM,
    params: Any,
    tree: Tree,
    hidden_TD: jax.Array,
    labels_TJ: np.ndarray,
    token_T: np.ndarray,
) -> dict[str, np.ndarray]:
    """What `score_positions` gives, zeros where nothing has a label."""
    next_TM = following_tokens(token_T, max(labels_TJ.shape[1] - 1, 1))
    used = np.flatnonzero((labels_TJ != IGNORE).any(axis=1))
    found: dict[str, np.ndarray] = {}
    for start in range(0, max(len(used), 1), _BLOCK):
        index = used[start : start + _BLOCK]
        at = np.pad(index, (0, _BLOCK - len(index))).astype(np.int32)  # blocks of one shape
        own_TJ = np.where((np.arange(_BLOCK) < len(index))[:, None], labels_TJ[at], IGNORE)
        hidden = _spread(lm, jnp.take(hidden_TD, at, axis=0))
        out = score_positions(lm.heads_config, lm.dtype, params, tree, hidden, next_TM[at], own_TJ)
        for name, value in jax.device_get(out).items():
            shape = len(token_T), *value.shape[1:]
            found.setdefault(name, np.zeros(shape, value.dtype))[index] = value[: len(index)]
    return found


def _forward(lm: MedusaLM, padded: dict[str, np.ndarray]) -> tuple[jax.Array, np.ndarray]:
    """Hidden states and labels of all positions, one row after the other."""
    hidden, labels = hidden_and_labels(lm, _num_heads(lm), padded)
    if lm.heads_params is not None and "token_map" in lm.heads_params:
        token_map = jnp.asarray(lm.heads_params["token_map"])
        labels = to_draft_vocabulary(labels, token_map, lm.config.vocab_size)
    return hidden.reshape(-1, hidden.shape[-1]), np.asarray(labels).reshape(-1, labels.shape[-1])


def _spread(lm: MedusaLM, hidden_TD: jax.Array) -> jax.Array:
    """Positions on the devices along "data" and "fsdp", where these divide them."""
    mesh = mesh_of(lm.params)
    if mesh is None:
        return hidden_TD
    sharding = logical_sharding(mesh, ("batch", None), hidden_TD.shape)
    return jax.device_put(hidden_TD, sharding)


def _sums(row: dict[str, np.ndarray]) -> Scores:
    """Sums over the positions of a conversation."""
    has_label_TJ = row["labels"] != IGNORE
    # A position without a head's label has no rank.
    rank_TM = np.where(has_label_TJ[:, 1:], row["rank"], np.iinfo(np.int32).max)
    is_root_T = has_label_TJ[:, 0]
    return Scores(
        num_tokens=int(is_root_T.sum()),
        lm_loss=float(row["lm_loss"].sum(dtype=np.float64)),
        labels_M=has_label_TJ[:, 1:].sum(axis=0),
        covered_M=(row["labels"][:, 1:] >= 0).sum(axis=0),
        loss_M=row["head_loss"].sum(axis=0, dtype=np.float64),
        hits=np.stack([(rank_TM < k).sum(axis=0) for k in range(1, RANKS + 1)]),
        followed=int(row["followed"].sum()),
        steps=count_steps(is_root_T[None], row["followed"][None]),
    )
