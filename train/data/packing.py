"""Documents packed into rows of one length: lengths decide which goes where, then tokens follow."""

from collections.abc import Iterable
from typing import Any

import grain
import numpy as np

# More bins leave less padding, but a group of bins is filled before its first row is handed out.
_BINS = 64

Batch = dict[str, np.ndarray]


def pack(
    numbers: grain.MapDataset,
    length_C: np.ndarray,
    seq_len: int,
    *,
    shuffle_seed: int | None = None,
) -> grain.IterDataset:
    """Packs documents by first fit; none is split, and none is read.

    Args:
      numbers: those of the documents, in the order of packing.
      length_C: int64, tokens of each document, at most `seq_len`.
      seq_len: T, length of a row.
      shuffle_seed: shuffles the rows within a group of bins, whose last ones are emptier; None
        keeps their order.

    Returns:
      Rows {"number": int32 [T] (of the document at each place, 0 on padding), "segment": int32 [T]
      (1, 2, ... per document, 0 on padding), "position": int32 [T] (within the document)}.
    """
    places = numbers.map(lambda i: {"number": np.full(length_C[i], i, np.int32)})
    # Threads would cost more than they save.
    options = grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
    packed = grain.experimental.FirstFitPackIterDataset(
        places.to_iter_dataset(options),
        length_struct={"number": seq_len},
        num_packing_bins=_BINS,
        shuffle_bins=shuffle_seed is not None,
        seed=shuffle_seed or 0,
    )
    return packed.map(_rename)


def fill(rows: Batch, begin_C: np.ndarray, token_N: np.ndarray, is_label_N: np.ndarray) -> Batch:
    """The tokens of packed rows.

    Args:
      rows: from `pack`, arrays of any shape.
      begin_C: int64, where each document begins.
      token_N: int32, the tokens of all documents.
      is_label_N: bool, whether they are labels.

    Returns:
      {"token": int32, "is_label": bool, "segment": int32, "position": int32} of the same shape;
      padding is 0 and no label.
    """
    is_used = rows["segment"] > 0
    place = np.where(is_used, begin_C[rows["number"]] + rows["position"], 0)
    return {
        "token": np.where(is_used, token_N[place], 0),
        "is_label": is_used & is_label_N[place],
        "segment": rows["segment"],
        "position": rows["position"],
    }


def count_rows(lengths: Iterable[int], seq_len: int) -> int:
    """How many rows `pack` makes of documents of these lengths, without making them.

    For example, with rows of 8 and bins for two of them: 5, 6 and 3 tokens make the first two rows
    (5 + 3 and 6); a document of 4 fits neither, so both are handed out and it begins a third.
    """
    rows, free_R = 0, np.full(_BINS, seq_len)
    for length in lengths:
        fits_R = free_R >= length
        row = int(fits_R.argmax())
        if not fits_R[row]:
            rows, row = rows + _BINS, 0
            free_R[:] = seq_len
        free_R[row] -= length
    return rows + int((free_R < seq_len).sum())


def _rename(row: dict[str, Any]) -> Batch:
    return {
        "number": row["number"],
        "segment": row["number_segment_ids"],
        "position": row["number_positions"],
    }
