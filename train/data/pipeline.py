"""Packed batches of a source: an endless stream to train on, and one pass of held-out data.

Which document goes where follows from the lengths of all of them, so every process works that out
for whole batches, and reads only the tokens of its own rows. The stream of global batches thus
depends on data, settings and seed, and a run can be resumed with another number of processes.
"""

import dataclasses
import functools
import sys
from collections.abc import Callable
from typing import Any, Literal, get_args

import grain
import numpy as np

from medusa_jax.errors import UserError
from train.data.packing import Batch, fill, pack
from train.data.sharegpt import describe_skipped
from train.data.sources import Source, open_source
from train.data.tokens import Tokens, tokenize_source

# When more documents are held out than this many, and than this many times the share, say why.
_MANY, _MUCH = 20, 3

# What to do about a malformed row, and about a conversation that is longer than a sequence.
DataErrors = Literal["stop", "cut", "skip"]
DATA_ERRORS = get_args(DataErrors)


@dataclasses.dataclass(frozen=True)
class Documents:
    """Some documents, cut to a length: a random-access source for grain.

    Attributes:
      tokens: where they are kept.
      number_C: which ones.
      max_length: longer ones are cut.
    """

    tokens: Tokens
    number_C: np.ndarray
    max_length: int

    def __len__(self) -> int:
        return len(self.number_C)

    @property
    def length_C(self) -> np.ndarray:
        """int64, tokens of each document after cutting."""
        return np.minimum(self.tokens.length_C[self.number_C], self.max_length)

    def fill(self, rows: Batch) -> Batch:
        """The tokens of rows that `packing.pack` has made of these documents; see there."""
        begin_C = (self.tokens.end_C - self.tokens.length_C)[self.number_C]
        return fill(rows, begin_C, self.tokens.token_N, self.tokens.is_label_N)

    def __getitem__(self, index: Any) -> dict[str, np.ndarray]:
        """{"token": int32 [t], "is_label": bool [t]}, copied out of the file."""
        example = self.tokens.document(int(self.number_C[index]))
        return {
            "token": np.array(example.token_T[: self.max_length]),
            "is_label": np.array(example.is_label_T[: self.max_length]),
        }


@dataclasses.dataclass(frozen=True)
class Splits:
    """Documents with labels, split by conversation.

    Attributes:
      train: to learn from.
      held_out: never learned from.
      summary: lines that say what was read, cut and left out.
      fingerprint: changes with the content of the data.
    """

    train: Documents
    held_out: Documents
    summary: str
    fingerprint: str


def load_data(
    data: str,
    tokenizer: Any,
    *,
    seq_len: int,
    held_out: float = 0.02,
    data_errors: str = "cut",
    progress: bool = True,
) -> Splits:
    """Reads, tokenizes and splits data; the result of the expensive part is cached on disk.

    Args:
      data: file, "sharegpt" or tensorflow-datasets name; see `sources.open_source`.
      tokenizer: of the model.
      seq_len: longer documents are cut, and those without labels before the cut are left out.
      held_out: share of conversations to hold out, at least one if above 0. Which ones depends on
        their base ids alone, so that files derived from each other are split the same way.
      data_errors: "stop" at a malformed row or a conversation longer than seq_len; "cut" the
        latter; or "skip" the former as well, and count both. Malformed rows of the sample are
        always skipped.
      progress: show progress bars and the summary on stderr.

    Raises:
      UserError: the data cannot be read or used; one line says why.
    """
    _check(seq_len, held_out, data_errors)
    source = open_source(data, "skip" if data_errors == "skip" else "stop", progress)
    tokens = tokenize_source(source, tokenizer, progress)
    if data_errors == "stop":
        _refuse_long(source, tokens, seq_len)
    is_usable_C = (tokens.first_label_C >= 0) & (tokens.first_label_C < seq_len)
    is_held_out_C = is_usable_C & _is_held_out(tokens.split_hash_C, is_usable_C, held_out)
    splits = Splits(
        Documents(tokens, np.flatnonzero(is_usable_C & ~is_held_out_C), seq_len),
        Documents(tokens, np.flatnonzero(is_held_out_C), seq_len),
        _summary(data, tokens, is_usable_C, is_held_out_C, seq_len, held_out),
        source.fingerprint,
    )
    if progress:
        print(splits.summary, file=sys.stderr)
    if not len(splits.train):
        raise UserError(
            f"{data} holds too few conversations with labels in their first {seq_len} tokens to "
            f"train on and hold out {held_out:g} of them: add data, or change seq_len or held_out"
        )
    return splits


def _check(seq_len: int, held_out: float, data_errors: str) -> None:
    if not 0 <= held_out < 1:
        raise UserError(f"held_out is {held_out}: expected a share from 0 to below 1")
    if seq_len < 2:
        raise UserError(f"seq_len is {seq_len}: at least 2 tokens are needed to predict one")
    if data_errors not in DATA_ERRORS:
        raise UserError(f"data_errors is {data_errors!r}: choose one of {', '.join(DATA_ERRORS)}")


def _refuse_long(source: Source, tokens: Tokens, seq_len: int) -> None:
    too_long_C = tokens.length_C > seq_len
    if not too_long_C.any():
        return
    number = int(too_long_C.argmax())
    (conversation,) = source.read([number])
    raise UserError(
        f"{conversation.where}: the conversation has {tokens.length_C[number]:,} tokens, more than "
        f"seq_len={seq_len} (data_errors=cut keeps its beginning)"
    )


def _is_held_out(hash_C: np.ndarray, is_usable_C: np.ndarray, share: float) -> np.ndarray:
    if share == 0 or not is_usable_C.any():
        return np.zeros(hash_C.shape, bool)
    limit = np.uint64(int(share * 2**64))
    return hash_C <= max(limit, hash_C[is_usable_C].min())


def _summary(
    data: str,
    tokens: Tokens,
    is_usable_C: np.ndarray,
    is_held_out_C: np.ndarray,
    seq_len: int,
    held_out: float,
) -> str:
    is_cut_C = is_usable_C & (tokens.length_C > seq_len)
    lines = [
        f"{data}: {is_usable_C.sum():,} documents ({is_held_out_C.sum():,} held out), "
        f"{np.minimum(tokens.length_C[is_usable_C], seq_len).sum():,} tokens; "
        f"{is_cut_C.sum():,} cut at {seq_len} tokens"
    ]
    if is_held_out_C.sum() > max(_MUCH * held_out * is_usable_C.sum(), _MANY):
        lines.append(
            "rows named NAME_0, NAME_1, ... count as one conversation, which is why so many are "
            "held out: give rows names of their own"
        )
    if tokens.skipped:
        lines.append(describe_skipped(tokens.skipped, tokens.first_skipped))
    if without := int((~is_usable_C).sum()):
        lines.append(f"{without:,} without labels in their first {seq_len} tokens left out")
    return "\n".join(lines)


def train_batches(
    documents: Documents,
    *,
    batch_size: int,
    seq_len: int,
    seed: int,
    shard_index: int = 0,
    shard_count: int = 1,
) -> grain.DatasetIterator[Batch]:
    """Endless packed batches; every epoch is another permutation, drawn from the seed.

    Args:
      documents: at least one.
      batch_size: rows of a global batch.
      seq_len: T, tokens of a row.
      seed: of the order.
      shard_index: which part of each batch to return.
      shard_count: number of parts; each holds `batch_size / shard_count` neighbouring rows.

    Returns:
      An iterator of {"token": int32, "is_label": bool, "segment": int32, "position": int32}, each
      [batch_size / shard_count, T]; see `packing.pack`. `get_state` and `set_state` are exact.

    Raises:
      UserError: the batch cannot be divided.
    """
    numbers = shuffled(len(documents), seed)
    rows = pack(numbers, documents.length_C, seq_len, shuffle_seed=seed % 2**32).batch(batch_size)
    part = _own_part(documents, batch_size, shard_index, shard_count)
    return iter(rows.map(part))


def shuffled(count: int, seed: int) -> grain.MapDataset:
    """The numbers below `count`, endlessly; every epoch is another permutation.

    Grain shuffles epoch e by its seed plus e. It is given seeds that are far apart for neighbouring
    ones here: otherwise the second epoch of one would be the first epoch of the other.
    """
    return grain.MapDataset.range(count).shuffle(seed=seed * 0x9E3779B1 % 2**32).repeat()


def held_out_batches(
    documents: Documents,
    *,
    batch_size: int,
    seq_len: int,
    shard_index: int = 0,
    shard_count: int = 1,
) -> grain.DatasetIterator[Batch]:
    """One pass over the documents in order; the last batch is filled up with padding rows.

    Arguments, batches and errors are those of `train_batches`.
    """
    rows = pack(grain.MapDataset.range(len(documents)), documents.length_C, seq_len)
    pad = functools.partial(grain.experimental.batch_and_pad, batch_size=batch_size)
    part = _own_part(documents, batch_size, shard_index, shard_count)
    return iter(rows.batch(batch_size, batch_fn=pad).map(part))


def _own_part(
    documents: Documents, batch_size: int, index: int, count: int
) -> Callable[[Batch], Batch]:
    if batch_size < 1 or batch_size % count:
        raise UserError(
            f"batch_size {batch_size} cannot be divided among {count} parts: choose a multiple"
        )
    size = batch_size // count
    part = slice(index * size, (index + 1) * size)
    return lambda batch: documents.fill({name: rows[part] for name, rows in batch.items()})
