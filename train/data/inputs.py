"""What a run reads: packed sequences, or hidden states that the backbone computed beforehand."""

import dataclasses
import itertools
from pathlib import Path
from typing import Any

import grain
import numpy as np
from jax.sharding import Mesh

from medusa_jax import MedusaLM
from medusa_jax.chat import Example
from medusa_jax.cli.console import note
from medusa_jax.errors import UserError
from medusa_jax.objectives.labels import IGNORE
from train.data import hidden_states
from train.data.hidden_states import HiddenStates
from train.data.pipeline import Documents, Splits, held_out_batches, shuffled, train_batches
from train.distributed import batch_part, is_first_process
from train.settings import Settings

# An evaluation must not take longer than the training between two evaluations.
_MAX_HELD_OUT_BATCHES = 64


@dataclasses.dataclass(frozen=True)
class Data:
    """What a run learns from; every process has its part.

    Attributes:
      train: an endless iterator over batches, whose position can be saved.
      held_out: batches to evaluate on, each as large as a training batch.
    """

    train: grain.DatasetIterator
    held_out: list[dict[str, Any]]


def packed(settings: Settings, splits: Splits, mesh: Mesh) -> Data:
    """Packed sequences, through which the backbone runs at every step."""
    index, count = batch_part(mesh)
    shape: Any = {
        "batch_size": settings.batch_size,
        "seq_len": settings.seq_len,
        "shard_index": index,
        "shard_count": count,
    }
    held_out = _some_batches(splits.held_out, _MAX_HELD_OUT_BATCHES + 1, shape)
    if len(held_out) > _MAX_HELD_OUT_BATCHES:
        _say_bounded(settings)
        # A file's first conversations are no fair sample where it is sorted.
        order_C = np.random.default_rng(0).permutation(splits.held_out.number_C)
        mixed = dataclasses.replace(splits.held_out, number_C=order_C)
        held_out = _some_batches(mixed, _MAX_HELD_OUT_BATCHES, shape)
    batches = train_batches(splits.train, seed=settings.seed, **shape)
    return Data(batches, held_out)


def _some_batches(documents: Documents, count: int, shape: dict[str, Any]) -> list[dict[str, Any]]:
    """The first batches, none where there are no documents."""
    if not len(documents):
        return []
    return list(itertools.islice(iter(held_out_batches(documents, **shape)), count))


def cached(settings: Settings, splits: Splits, lm: MedusaLM, workdir: Path, mesh: Mesh) -> Data:
    """Hidden states, which a frozen backbone computes once, into the folder that processes share.

    A batch has batch_size * seq_len positions, drawn one by one from all conversations; a process
    reads those of its own rows.

    Raises:
      UserError: no position has a label.
    """
    folder = workdir / "hidden_states"
    train = _compute(settings, lm, splits.train, folder, "train")
    held_out = _compute(settings, lm, splits.held_out, folder, "held out")
    if train is None:
        raise UserError(
            f"{settings.data} has no reply of two tokens or more: there is nothing to learn"
        )
    following = settings.num_heads if settings.soft_labels else 0
    own = _own_rows(settings, mesh)
    return Data(
        _train_batches(settings, train, following, own),
        _whole(settings, held_out, following, own),
    )


def _say_bounded(settings: Settings) -> None:
    """Says so, as runs with batches of other sizes are then measured on other conversations."""
    if is_first_process():
        size = f"{settings.batch_size} x {settings.seq_len}"
        note(
            f"evaluations take {_MAX_HELD_OUT_BATCHES} batches ({size} tokens) of the held-out "
            "data: a smaller config.held_out leaves the rest for training"
        )


def _own_rows(settings: Settings, mesh: Mesh) -> slice:
    """The rows of each batch that this process has."""
    index, count = batch_part(mesh)
    size = settings.batch_size // count
    return slice(index * size, (index + 1) * size)


def _compute(
    settings: Settings, lm: MedusaLM, documents: Documents, folder: Path, name: str
) -> HiddenStates | None:
    rows = (documents[i] for i in range(len(documents)))
    examples = [Example(row["token"], row["is_label"]) for row in rows]
    if not examples:
        return None
    states = hidden_states.compute(lm, examples, settings.num_heads, folder, name)
    has_work = (states.labels_TJ[:, 1:] != IGNORE).any()  # for the heads; the base head is frozen
    return states if has_work else None


def _train_batches(
    settings: Settings, states: HiddenStates, following: int, own: slice
) -> grain.DatasetIterator:
    shape = (settings.batch_size, settings.seq_len)
    positions = shuffled(len(states.used), settings.seed)
    batches = positions.batch(settings.batch_size * settings.seq_len).map(
        lambda index: states.batch(index.reshape(shape)[own], following)
    )
    return iter(batches.to_iter_dataset(grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)))


def _whole(
    settings: Settings, states: HiddenStates | None, following: int, own: slice
) -> list[dict[str, Any]]:
    """Positions in order; the last batch is filled up with positions that have no labels."""
    if states is None:
        return []
    size = settings.batch_size * settings.seq_len
    chosen = np.arange(len(states.used))
    if len(chosen) > _MAX_HELD_OUT_BATCHES * size:
        _say_bounded(settings)
        # Shards begin with the shortest documents, so that the first positions are no fair sample.
        chosen = np.random.default_rng(0).permutation(chosen)[: _MAX_HELD_OUT_BATCHES * size]
        chosen.sort()
    batches = []
    for start in range(0, len(chosen), size):
        shape = (settings.batch_size, settings.seq_len)
        place = np.arange(start, start + size).reshape(shape)[own]
        real = place < len(chosen)
        batch = states.batch(chosen[np.where(real, place, 0)], following)
        batch["labels"] = np.where(real[..., None], batch["labels"], IGNORE)
        batches.append(batch)
    return batches


def draft_vocabulary(documents: Documents, vocab_size: int, size: int) -> np.ndarray | None:
    """The `size` most frequent labels in ascending order (int32); None for size 0: all tokens."""
    if size == 0:
        return None
    count_V = np.zeros(vocab_size, np.int64)
    for i in range(len(documents)):
        document = documents[i]
        count_V += np.bincount(document["token"][document["is_label"]], minlength=vocab_size)
    seen = min(size, np.count_nonzero(count_V))
    return np.sort(np.argsort(-count_V, kind="stable")[:seen]).astype(np.int32)
