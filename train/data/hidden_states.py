"""Hidden states of a frozen backbone, computed once and kept on disk for every epoch."""

import dataclasses
import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from rich.progress import track

from medusa_jax import MedusaLM
from medusa_jax.nn.llama import Llama, causal_mask
from medusa_jax.objectives.labels import IGNORE, shift_labels
from train.data.chat import Example

_WIDTH_STEP = 64
_TOKENS_PER_SHARD = 8192
_LAYOUT = 2  # of a shard; older ones are not read


@dataclasses.dataclass(frozen=True)
class HiddenStates:
    """Positions of conversations, each followed by those behind it.

    Attributes:
      hidden_ND: float16, inputs of the heads; from a conversation's first label on.
      next_N: int32, the token after each position (what the base head predicts there).
      labels_NM: int32 vocabulary ids, or IGNORE.
      used_P: int64, the positions that have a label.
    """

    hidden_ND: np.ndarray
    next_N: np.ndarray
    labels_NM: np.ndarray
    used_P: np.ndarray

    def batch(self, index: np.ndarray, following: int) -> dict[str, np.ndarray]:
        """A batch of `Objective.loss` of some positions.

        Args:
          index: int [B, T], into `used_P`.
          following: positions behind each whose hidden states go along: M for soft labels, or 0.
        """
        position = self.used_P[index]
        # A row behind the end belongs to another conversation; there is no label for it then.
        window = position[..., None] + np.arange(following + 1)
        return {
            "hidden": self.hidden_ND[np.minimum(window, len(self.hidden_ND) - 1)],
            "next": self.next_N[position],
            "labels": self.labels_NM[position],
        }


def compute(
    lm: MedusaLM, examples: Sequence[Example], num_heads: int, folder: Path, name: str
) -> HiddenStates:
    """Runs the backbone over the examples; shards already in the folder are read instead.

    Args:
      lm: the frozen model.
      examples: tokenized conversations.
      num_heads: M, heads to make labels for.
      folder: where shards are kept, under a name that depends on model and examples.
      name: shown beside the progress bar.
    """
    target = epath.Path(folder) / f"{name}_{_fingerprint(lm, examples, num_heads)}"
    target.mkdir(parents=True, exist_ok=True)
    forward = jax.jit(_forward, static_argnums=0)
    llama = Llama(lm.config, jnp.dtype(lm.dtype))
    shards = list(_shards(examples))
    parts = []
    for i, shard in enumerate(track(shards, f"hidden states ({name})")):
        path = target / f"{i:05d}.npz"
        if not path.exists():
            _write(path, _run(forward, llama, lm, [examples[j] for j in shard], num_heads))
        with path.open("rb") as file, np.load(file) as part:
            parts.append((part["hidden"], part["next"], part["labels"]))
    hidden_ND, next_N, labels_NM = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    used_P = np.flatnonzero((labels_NM != IGNORE).any(axis=-1))
    return HiddenStates(hidden_ND, next_N, labels_NM, used_P)


def _fingerprint(lm: MedusaLM, examples: Sequence[Example], num_heads: int) -> str:
    digest = hashlib.sha256(repr((_LAYOUT, lm.config, lm.dtype, num_heads)).encode())
    for weight in jax.tree.leaves(lm.params):  # one row tells a changed matrix from the old one
        digest.update(np.asarray(weight[:1], np.float32).tobytes())
    for example in examples:
        digest.update(example.token_T.tobytes() + example.is_label_T.tobytes())
    return digest.hexdigest()[:12]


def _shards(examples: Sequence[Example]) -> Iterator[list[int]]:
    """Groups of examples of like length, about `_TOKENS_PER_SHARD` padded tokens each."""
    order = sorted(range(len(examples)), key=lambda i: len(examples[i].token_T))
    shard: list[int] = []
    for i in order:
        if shard and (len(shard) + 1) * _width([examples[i]]) > _TOKENS_PER_SHARD:
            yield shard
            shard = []
        shard.append(i)
    if shard:
        yield shard


def _width(examples: Sequence[Example]) -> int:
    longest = max(len(example.token_T) for example in examples)
    return -(-longest // _WIDTH_STEP) * _WIDTH_STEP


def _forward(llama: Llama, params, token_BT: jax.Array) -> jax.Array:
    B, T = token_BT.shape
    position_BT = jnp.broadcast_to(jnp.arange(T, dtype=jnp.int32)[None], (B, T))
    hidden_BTD, _ = llama.apply({"params": params}, token_BT, position_BT, causal_mask(T))
    return hidden_BTD.astype(jnp.float16)


def _run(forward, llama: Llama, lm: MedusaLM, examples: Sequence[Example], num_heads: int):
    width = _width(examples)
    # A full shard has one shape per width, so that few programs are compiled.
    token_BT = np.zeros((max(_TOKENS_PER_SHARD // width, 1), width), np.int32)
    is_label_BT = np.zeros(token_BT.shape, bool)
    segment_BT = np.zeros(token_BT.shape, np.int32)
    for row, example in enumerate(examples):
        length = len(example.token_T)
        token_BT[row, :length] = example.token_T
        is_label_BT[row, :length] = example.is_label_T
        segment_BT[row, :length] = 1
    token, is_label, segment = map(jnp.asarray, (token_BT, is_label_BT, segment_BT))
    labels = shift_labels(token, is_label, segment, num_heads)
    labels_BTM = np.asarray(labels)[:, :, 1:]
    hidden_BTD = np.asarray(forward(llama, lm.params, token_BT))
    next_BT = np.roll(token_BT, -1, axis=1)  # a position with a label is never the last of its row
    has_label_BT = (labels_BTM != IGNORE).any(axis=-1)
    kept_BT = (np.cumsum(has_label_BT, axis=1) > 0) & (segment_BT > 0)
    return hidden_BTD[kept_BT], next_BT[kept_BT], labels_BTM[kept_BT]


def _write(path: epath.Path, arrays: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    half_done = path.with_suffix(".partial")
    with half_done.open("wb") as file:
        np.savez(file, hidden=arrays[0], next=arrays[1], labels=arrays[2])
    half_done.replace(path)
