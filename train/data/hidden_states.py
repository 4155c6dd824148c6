"""Hidden states of a frozen backbone, computed once and kept on disk for every epoch."""

import dataclasses
import hashlib
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from rich.progress import track

from medusa_jax import MedusaLM
from medusa_jax.chat import Example
from medusa_jax.errors import UserError
from medusa_jax.objectives.labels import IGNORE
from train.data.padded import batches_of_like_length, hidden_and_labels, pad

_TOKENS_PER_SHARD = 8192
_LAYOUT = 3  # of a shard; older ones are not read


@dataclasses.dataclass(frozen=True)
class HiddenStates:
    """Positions of conversations, T in all, each followed by those after it.

    Attributes:
      hidden_TD: float16, inputs of the heads; from the first position of a conversation that has a
        label on.
      next_T: int32, the token after each position (what the base head predicts there).
      labels_TJ: int32 vocabulary ids, or IGNORE; of the base head and of the M Medusa heads.
      used: int64, the positions that have a label.
    """

    hidden_TD: np.ndarray
    next_T: np.ndarray
    labels_TJ: np.ndarray
    used: np.ndarray

    def batch(self, index: np.ndarray, following: int) -> dict[str, np.ndarray]:
        """Some positions as a batch for `Objective.loss`.

        Args:
          index: int [B, T], into `used`.
          following: how many positions after each bring their hidden states along: M for soft
            labels, else 0.
        """
        position = self.used[index]
        # A row beyond the end belongs to another conversation; there is no label for it then.
        window = position[..., None] + np.arange(following + 1)
        return {
            "hidden": self.hidden_TD[np.minimum(window, len(self.hidden_TD) - 1)],
            "next": self.next_T[position],
            "labels": self.labels_TJ[position],
        }


def compute(
    lm: MedusaLM, examples: Sequence[Example], num_heads: int, folder: Path, name: str
) -> HiddenStates:
    """Runs the backbone over the examples; shards that the folder already has are read instead.

    Args:
      lm: the frozen model.
      examples: tokenized conversations.
      num_heads: M, heads to make labels for.
      folder: where shards are kept, under a name that depends on model and examples.
      name: shown beside the progress bar.

    Raises:
      UserError: the folder cannot be written, perhaps because the disk is full.
    """
    target = epath.Path(folder) / f"{name}_{_fingerprint(lm, examples, num_heads)}"
    _make(target)
    shards = list(batches_of_like_length(examples, _TOKENS_PER_SHARD))
    parts = []
    for i, shard in enumerate(track(shards, f"hidden states ({name})")):
        path = target / f"{i:05d}.npz"
        if not path.exists():
            _write(path, _run(lm, shard, num_heads))
        with path.open("rb") as file, np.load(file) as part:
            parts.append((part["hidden"], part["next"], part["labels"]))
    hidden_TD, next_T, labels_TJ = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    used = np.flatnonzero((labels_TJ != IGNORE).any(axis=-1))
    return HiddenStates(hidden_TD, next_T, labels_TJ, used)


def _fingerprint(lm: MedusaLM, examples: Sequence[Example], num_heads: int) -> str:
    digest = hashlib.sha256(repr((_LAYOUT, lm.config, lm.dtype, num_heads)).encode())
    for weight in jax.tree.leaves(lm.params):  # one row tells a changed matrix from the old one
        digest.update(np.asarray(weight[:1], np.float32).tobytes())
    for example in examples:
        digest.update(example.token_T.tobytes() + example.is_label_T.tobytes())
    return digest.hexdigest()[:12]


def _run(
    lm: MedusaLM, examples: Sequence[Example], num_heads: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Hidden states, next tokens and labels of one shard's positions; see `HiddenStates`."""
    batch = pad(examples, _TOKENS_PER_SHARD)
    hidden, labels = hidden_and_labels(lm, num_heads, batch)
    hidden_BTD, labels_BTJ = np.asarray(hidden.astype(jnp.float16)), np.asarray(labels)
    next_BT = np.roll(batch["token"], -1, axis=1)  # a position with a label never ends its row
    has_label_BT = (labels_BTJ != IGNORE).any(axis=-1)
    kept_BT = (np.cumsum(has_label_BT, axis=1) > 0) & (batch["segment"] > 0)
    return hidden_BTD[kept_BT], next_BT[kept_BT], labels_BTJ[kept_BT]


def _write(path: epath.Path, arrays: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    half_done = path.with_suffix(".partial")
    try:
        with half_done.open("wb") as file:
            np.savez(file, hidden=arrays[0], next=arrays[1], labels=arrays[2])
        half_done.replace(path)
    except OSError as error:
        half_done.unlink(missing_ok=True)
        raise _cannot_write(path.parent, error) from None


def _make(folder: epath.Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _cannot_write(folder, error) from None


def _cannot_write(folder: epath.Path, error: OSError) -> UserError:
    return UserError(
        f"cannot write hidden states to {folder} ({error.strerror}): mend that, then rerun the "
        "same command; what is complete is not computed again"
    )
