"""Measures a model and its heads on tokenized conversations, teacher-forced.

Position t of a conversation gives one number per head: the rank of the token at t + k + 1 among
head k's logits. Losses, accuracies, the tree's expected yield and the walk all follow from these.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from medusa_jax import MedusaLM
from medusa_jax.config import LlamaConfig, MedusaConfig
from medusa_jax.nn.heads import MedusaHeads
from medusa_jax.nn.layers import take_rows
from medusa_jax.nn.llama import Llama, causal_mask, lm_head_weight
from medusa_jax.objectives.labels import IGNORE, TOP, followed_nodes, shift_labels
from medusa_jax.tree.build import Tree
from train.data.chat import Example

RANKS = 20  # of a head's tokens that are told apart
MISS = np.iinfo(np.int32).max  # rank of a token that a head cannot propose, or that is no label
_BLOCK = 256  # positions whose logits exist at the same time
_TOKENS_PER_BATCH = 4096
_MIN_WIDTH = 64


@dataclasses.dataclass
class Scores:
    """Sums over conversations; M heads.

    Attributes:
      num_tokens: labels of the base head.
      lm_loss: sum of its cross-entropies.
      labels_M: labels of each head.
      covered_M: those within the heads' vocabulary.
      loss_M: cross-entropies over the covered ones.
      hits_KM: labels among the 1 .. RANKS most likely tokens; only larger logits count against one.
      followed: tree nodes that the labels follow, over the positions of the base head's labels.
      steps: of the walk.
    """

    num_tokens: int
    lm_loss: float
    labels_M: np.ndarray
    covered_M: np.ndarray
    loss_M: np.ndarray
    hits_KM: np.ndarray
    followed: int
    steps: int

    @classmethod
    def zero(cls, num_heads: int) -> "Scores":
        """Of no conversation at all."""
        count_M = np.zeros(num_heads, np.int64)
        hits_KM = np.zeros((RANKS, num_heads), np.int64)
        return cls(0, 0.0, count_M, count_M, np.zeros(num_heads), hits_KM, 0, 0)

    def __add__(self, other: "Scores") -> "Scores":
        names = [field.name for field in dataclasses.fields(self)]
        return Scores(*(getattr(self, name) + getattr(other, name) for name in names))

    def accuracy_MK(self) -> np.ndarray:
        """Share of each head's labels that are its token of each rank."""
        per_rank_KM = np.diff(self.hits_KM, axis=0, prepend=0)
        return (per_rank_KM / np.maximum(self.labels_M, 1)).T

    def metrics(self) -> dict[str, Any]:
        """What a report says; None where there is nothing to average over."""
        report: dict[str, Any] = {
            "num_tokens": self.num_tokens,
            "lm_loss": _ratio(self.lm_loss, self.num_tokens),
            "head_loss": _ratios(self.loss_M, self.covered_M),
        }
        for k, hits_M in enumerate(self.hits_KM[:TOP], 1):
            report[f"head_top{k}"] = _ratios(hits_M, self.labels_M)
        report["head_coverage"] = _ratios(self.covered_M, self.labels_M)
        report["expected_tokens_per_step"] = 1 + (self.followed / max(self.num_tokens, 1))
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
      examples: tokenized conversations.
      advance: called with the number of conversations that have just been measured.

    Returns:
      The sums over all of them.
    """
    heads = 0 if lm.heads_config is None else lm.heads_config.num_heads
    total = Scores.zero(heads)
    params = _params(lm)
    for batch in _batches(examples):
        total += _score_batch(lm, params, tree, batch)
        advance(len(batch))
    return total


def _params(lm: MedusaLM) -> dict[str, Any]:
    """What `_score_block` reads; "draft_id" maps the vocabulary to the heads', -1 outside."""
    params: dict[str, Any] = {"backbone": lm.params}
    if lm.heads_config is None or lm.heads_params is None:
        return params
    params["heads"] = {k: v for k, v in lm.heads_params.items() if k != "token_map"}
    params["lm_head"] = lm_head_weight(lm.params)
    if lm.heads_config.draft_vocab:
        token_map = np.asarray(lm.heads_params["token_map"])
        params["lm_head"] = take_rows(params["lm_head"], jnp.asarray(token_map))
        draft_id_V = np.full((lm.config.vocab_size,), -1, np.int32)
        draft_id_V[token_map] = np.arange(len(token_map))
        params["draft_id"] = jnp.asarray(draft_id_V)
    return params


def _batches(examples: Sequence[Example]) -> Iterator[list[Example]]:
    """Groups of like length, of one padded width each and about `_TOKENS_PER_BATCH` tokens."""
    batch: list[Example] = []
    for example in sorted(examples, key=lambda example: len(example.token_T)):
        if batch:
            width = _width(len(example.token_T))
            full = len(batch) >= max(_TOKENS_PER_BATCH // width, 1)
            if full or width != _width(len(batch[0].token_T)):
                yield batch
                batch = []
        batch.append(example)
    if batch:
        yield batch


def _width(length: int) -> int:
    """Next of 64, 96, 128, 192, ...: few shapes, few compilations, a third of padding at most."""
    power = 1 << max(length - 1, _MIN_WIDTH - 1).bit_length()
    return power * 3 // 4 if max(length, _MIN_WIDTH + 1) <= power * 3 // 4 else power


def _score_batch(lm: MedusaLM, params: Any, tree: Tree, batch: Sequence[Example]) -> Scores:
    width = _width(max(len(example.token_T) for example in batch))
    rows = min(1 << (len(batch) - 1).bit_length(), max(_TOKENS_PER_BATCH // width, 1))
    token_BT = np.zeros((rows, width), np.int32)
    is_label_BT = np.zeros(token_BT.shape, bool)
    for row, example in enumerate(batch):
        token_BT[row, : len(example.token_T)] = example.token_T
        is_label_BT[row, : len(example.token_T)] = example.is_label_T
    heads = 0 if lm.heads_config is None else lm.heads_config.num_heads
    llama = Llama(lm.config, jnp.dtype(lm.dtype))
    hidden_ND, labels_NL = _forward(llama, heads, lm.params, token_BT, is_label_BT)
    labels_NL = np.asarray(labels_NL)
    used = np.flatnonzero((labels_NL != IGNORE).any(axis=1))
    next_N = np.roll(token_BT.reshape(-1), -1)  # a used position is never the last of its row
    followed_N = np.zeros(labels_NL.shape[0], np.int32)
    total = Scores.zero(heads)
    for start in range(0, len(used), _BLOCK):
        index = used[start : start + _BLOCK]
        fill = np.pad(index, (0, _BLOCK - len(index)))  # of one shape
        labels_FL = np.where((np.arange(_BLOCK) < len(index))[:, None], labels_NL[fill], IGNORE)
        out = jax.device_get(
            _score_block(
                lm.config,
                lm.heads_config,
                lm.dtype,
                params,
                tree,
                jnp.take(hidden_ND, fill.astype(np.int32), axis=0),
                next_N[fill],
                labels_FL,
            )
        )
        followed_N[index] = out["followed"][: len(index)]
        total += _sums(labels_FL, out)
    is_root_BT = (labels_NL[:, 0] != IGNORE).reshape(token_BT.shape)
    steps = count_steps(is_root_BT, followed_N.reshape(token_BT.shape))
    return dataclasses.replace(total, steps=steps)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _forward(llama: Llama, heads: int, params: Any, token_BT: jax.Array, is_label_BT: jax.Array):
    """Hidden states [B * T, D] and labels [B * T, M + 1]."""
    B, T = token_BT.shape
    position_BT = jnp.broadcast_to(jnp.arange(T, dtype=jnp.int32)[None], (B, T))
    hidden_BTD, _ = llama.apply({"params": params}, token_BT, position_BT, causal_mask(T))
    # Padding holds no labels, so that one segment per row is enough.
    labels_BTL = shift_labels(token_BT, is_label_BT, jnp.ones_like(token_BT), heads)
    return hidden_BTD.reshape(B * T, -1), labels_BTL.reshape(B * T, -1)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _score_block(
    model: LlamaConfig,
    heads: MedusaConfig | None,
    dtype: str,
    params: Any,
    tree: Tree,
    hidden_ND: jax.Array,
    next_N: jax.Array,
    labels_NL: jax.Array,
) -> dict[str, jax.Array]:
    """Of N positions: "lm_loss" [N], "head_loss" and "rank" [N, M], "followed" [N]."""
    llama = Llama(model, jnp.dtype(dtype))
    logits_NV: Any = llama.apply({"params": params["backbone"]}, hidden_ND, method="logits")
    out = {"lm_loss": _entropy_and_rank(logits_NV, labels_NL[:, 0])[0]}
    if heads is None:
        empty_NM = jnp.zeros(labels_NL[:, 1:].shape, jnp.float32)
        loss_NM, rank_NM = empty_NM, empty_NM.astype(jnp.int32)
    else:
        labels_NM = labels_NL[:, 1:]
        if heads.draft_vocab:
            draft_NM = params["draft_id"][jnp.maximum(labels_NM, 0)]
            labels_NM = jnp.where((labels_NM == IGNORE) | (draft_NM < 0), IGNORE, draft_NM)
        embedding_VD = params["backbone"]["embed"]["weight"]
        root_ND = take_rows(embedding_VD, next_N) if heads.root_conditioned else None
        one = MedusaHeads(dataclasses.replace(heads, num_heads=1), jnp.dtype(dtype))

        def score_head(head: Any) -> tuple[jax.Array, jax.Array]:
            weights = jax.tree.map(lambda x: x[None], head[0])
            logits_N1V: Any = one.apply({"params": weights}, hidden_ND, params["lm_head"], root_ND)
            return _entropy_and_rank(logits_N1V[:, 0], head[1])

        # Head by head, so that no more logits exist at once than those of the base head.
        loss_MN, rank_MN = jax.lax.map(score_head, (params["heads"], labels_NM.T))
        loss_NM, rank_NM = loss_MN.T, rank_MN.T
    followed_N = followed_nodes(tree, rank_NM)
    followed_N = jnp.where(labels_NL[:, 0] == IGNORE, 0, followed_N)
    return out | {"head_loss": loss_NM, "rank": rank_NM, "followed": followed_N}


def _entropy_and_rank(logits_NV: jax.Array, label_N: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Cross-entropy and number of larger logits; 0 and MISS where the label is IGNORE."""
    valid_N = label_N != IGNORE
    own_N1 = jnp.take_along_axis(logits_NV, jnp.where(valid_N, label_N, 0)[:, None], axis=-1)
    rank_N = (logits_NV > own_N1).sum(axis=-1, dtype=jnp.int32)
    loss_N = jax.nn.logsumexp(logits_NV, axis=-1) - own_N1[:, 0]
    return jnp.where(valid_N, loss_N, 0.0), jnp.where(valid_N, rank_N, MISS)


def _sums(labels_NL: np.ndarray, out: dict[str, np.ndarray]) -> Scores:
    valid_NL, rank_NM = labels_NL != IGNORE, out["rank"]
    return Scores(
        num_tokens=int(valid_NL[:, 0].sum()),
        lm_loss=float(out["lm_loss"].sum(dtype=np.float64)),
        labels_M=valid_NL[:, 1:].sum(axis=0),
        covered_M=(rank_NM < MISS).sum(axis=0),
        loss_M=out["head_loss"].sum(axis=0, dtype=np.float64),
        hits_KM=np.stack([(rank_NM < k).sum(axis=0) for k in range(1, RANKS + 1)]),
        followed=int(out["followed"].sum()),
        steps=0,
    )


def count_steps(is_root_BT: np.ndarray, followed_BT: np.ndarray) -> int:
    """Steps of decoding that writes exactly the labels.

    Args:
      is_root_BT: bool, the token behind this position is a label; runs of them are replies.
      followed_BT: int, tokens that a step from this position adds to that one; a path of labels
        never leads beyond its reply.
    """
    steps = 0
    for is_root_T, followed_T in zip(is_root_BT, followed_BT, strict=True):
        t = 0
        while t < len(is_root_T):
            steps += bool(is_root_T[t])
            t += 1 + (int(followed_T[t]) if is_root_T[t] else 0)
    return steps
