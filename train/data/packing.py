"""Documents packed into rows of one length, with segment ids and positions per document."""

from collections.abc import Iterable
from typing import Any

import grain
import numpy as np

# More bins leave less padding, but a group of bins is filled before its first row is handed out.
_BINS = 64

Batch = dict[str, np.ndarray]


def pack(
    documents: grain.IterDataset, seq_len: int, *, shuffle_seed: int | None = None
) -> grain.IterDataset:
    """Packs documents by first fit; none is split.

    Args:
      documents: of {"token": int32 [t], "is_label": bool [t]}, where t is at most `seq_len`.
      seq_len: T, length of a row.
      shuffle_seed: shuffles the rows within a group of bins, whose last ones are emptier; None
        keeps their order.

    Returns:
      Rows {"token": int32 [T], "is_label": bool [T], "segment": int32 [T] (1, 2, ... per document,
      0 on padding), "position": int32 [T] (within the document)}.
    """
    packed = grain.experimental.FirstFitPackIterDataset(
        documents,
        length_struct={"token": seq_len, "is_label": seq_len},
        num_packing_bins=_BINS,
        meta_features=("is_label",),  # one set of segment ids is enough
        shuffle_bins=shuffle_seed is not None,
        seed=shuffle_seed or 0,
    )
    return packed.map(_rename)


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
        "token": row["token"],
        "is_label": row["is_label"],
        "segment": row["token_segment_ids"],
        "position": row["token_positions"],
    }
