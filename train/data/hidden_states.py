"""Hidden states of a frozen backbone, computed once and kept on disk for every epoch.

They lie in shards of several thousand positions, which are mapped into memory. Processes that train
together compute them together and share the folder; which of them wrote a shard does not matter.
"""

import dataclasses
import hashlib
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
from rich.progress import track

from medusa_jax import MedusaLM
from medusa_jax.chat import Example
from medusa_jax.errors import UserError
from medusa_jax.io.atomic import replacing
from medusa_jax.objectives.labels import IGNORE
from train.data.padded import batches_of_like_length, following_tokens, hidden_and_labels, pad
from train.distributed import from_each, is_first_process, together
from train.weights import first_rows

_TOKENS_PER_SHARD = 8192
_LAYOUT = 5  # of a shard; older ones are not read


@dataclasses.dataclass(frozen=True)
class HiddenStates:
    """Positions of conversations, T in all, each followed by those after it.

    Attributes:
      hidden_S: for each shard float16 [t, D], inputs of the heads, mapped from a file; a
        conversation begins at its first position that has a label.
      next_TM: int32, the M tokens after each position: what the base head predicts there, and what
        heads may see of the branch; beyond the end, anything.
      labels_TJ: int32 vocabulary ids, or IGNORE; for the base head and for the M Medusa heads.
      used: int64, the positions that have a label.
    """

    hidden_S: tuple[np.ndarray, ...]
    next_TM: np.ndarray
    labels_TJ: np.ndarray
    used: np.ndarray

    def hidden_at(self, position: np.ndarray) -> np.ndarray:
        """float16 [..., D], read from disk, for some positions (int [...])."""
        end_S = np.cumsum([len(hidden_TD) for hidden_TD in self.hidden_S])
        flat = position.ravel()
        shard = np.searchsorted(end_S, flat, side="right")
        out = np.empty((len(flat), self.hidden_S[0].shape[1]), np.float16)
        for number in np.unique(shard):
            hidden_TD, here = self.hidden_S[number], np.flatnonzero(shard == number)
            out[here] = hidden_TD[flat[here] - (end_S[number] - len(hidden_TD))]
        return out.reshape(*position.shape, -1)

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
            "hidden": self.hidden_at(np.minimum(window, len(self.next_TM) - 1)),
            "next": self.next_TM[position],
            "labels": self.labels_TJ[position],
        }


def compute(
    lm: MedusaLM, examples: Sequence[Example], num_heads: int, folder: Path, name: str
) -> HiddenStates:
    """Runs the backbone over the examples; shards that the folder already has are read instead.

    Args:
      lm: the frozen model, on the mesh of all processes if there are several.
      examples: tokenized conversations, the same on every process.
      num_heads: M, heads to make labels for.
      folder: where shards are kept, under a name that depends on model and examples; all processes
        see it.
      name: shown beside the progress bar.

    Raises:
      UserError: the folder cannot be written, perhaps because the disk is full.
    """
    target = Path(folder) / f"{name}_{_fingerprint(lm, examples, num_heads)}"
    together(_make, target)
    shards = list(batches_of_like_length(examples, _TOKENS_PER_SHARD))
    is_there = np.asarray([_facts(target, i).exists() for i in range(len(shards))])
    missing = np.flatnonzero(~from_each(is_there)[0])  # as the first process sees it
    bar = track(missing, f"hidden states ({name})", disable=not is_first_process())
    for turn, i in enumerate(bar):
        arrays = _run(lm, shards[i], num_heads)
        is_own = turn % jax.process_count() == jax.process_index()
        together(_write, target, int(i), arrays if is_own else None)
    facts = [np.load(_facts(target, i)) for i in range(len(shards))]
    next_TM, labels_TJ = (np.concatenate([part[key] for part in facts]) for key in _FACTS)
    hidden_S = tuple(np.load(_states(target, i), mmap_mode="r") for i in range(len(shards)))
    used = np.flatnonzero((labels_TJ != IGNORE).any(axis=-1))
    return HiddenStates(hidden_S, next_TM, labels_TJ, used)


_FACTS = ("next", "labels")


def _states(folder: Path, number: int) -> Path:
    return folder / f"{number:05d}.npy"


def _facts(folder: Path, number: int) -> Path:
    """The file of a shard that is written last."""
    return folder / f"{number:05d}.npz"


def _fingerprint(lm: MedusaLM, examples: Sequence[Example], num_heads: int) -> str:
    digest = hashlib.sha256(repr((_LAYOUT, lm.config, lm.dtype, num_heads)).encode())
    digest.update(first_rows(lm))
    for example in examples:
        digest.update(example.token_T.tobytes() + example.is_label_T.tobytes())
    return digest.hexdigest()[:12]


def _run(
    lm: MedusaLM, examples: Sequence[Example], num_heads: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Hidden states, next tokens and labels of one shard's positions; see `HiddenStates`."""
    batch = pad(examples, _TOKENS_PER_SHARD)
    hidden, labels = hidden_and_labels(lm, num_heads, batch)
    hidden_BTD, labels_BTJ = np.asarray(hidden).astype(np.float16), np.asarray(labels)
    next_BTM = following_tokens(batch["token"], num_heads)
    has_label_BT = (labels_BTJ != IGNORE).any(axis=-1)
    kept_BT = (np.cumsum(has_label_BT, axis=1) > 0) & (batch["segment"] > 0)
    return hidden_BTD[kept_BT], next_BTM[kept_BT], labels_BTJ[kept_BT]


def _write(
    folder: Path, number: int, arrays: tuple[np.ndarray, np.ndarray, np.ndarray] | None
) -> None:
    """Writes a shard, if it is this process's turn."""
    if arrays is None:
        return
    hidden_TD, next_TM, labels_TJ = arrays
    states, facts = _states(folder, number), _facts(folder, number)
    try:
        with replacing(facts) as new_facts, replacing(states) as new_states:
            with new_states.open("wb") as file:
                np.save(file, hidden_TD)
            with new_facts.open("wb") as file:
                np.savez(file, next=next_TM, labels=labels_TJ)
    except OSError as error:
        raise _cannot_write(folder, error) from None


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _cannot_write(folder, error) from None


def _cannot_write(folder: Path, error: OSError) -> UserError:
    return UserError(
        f"cannot write hidden states to {folder} ({error.strerror}): mend that, then rerun the "
        "same command; what is complete is not computed again"
    )
