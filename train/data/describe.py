"""A packed row in words: which tokens are labels."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from rich.text import Text

from train.data.packing import Batch


def describe_row(tokenizer: Any, row: Batch, number: int, plain: bool) -> Iterator[Text]:
    """Lines for one packed row of [T] arrays; `plain` marks labels with brackets, not colours."""
    segments = int(row["segment"].max())
    used, labels = int((row["segment"] > 0).sum()), int(row["is_label"].sum())
    yield Text(
        f"--- row {number}: {segments} documents, {labels} labels in {used} tokens, "
        f"{len(row['token']) - used} padding ---",
        style="bold",
    )
    for segment in range(1, segments + 1):
        inside = row["segment"] == segment
        yield Text(f"--- document {segment} ---", style="bold")
        yield _marked(tokenizer, row["token"][inside], row["is_label"][inside], plain)


def _marked(tokenizer: Any, token_T: np.ndarray, is_label_T: np.ndarray, plain: bool) -> Text:
    ends = [*(np.flatnonzero(np.diff(is_label_T)) + 1).tolist(), len(token_T)]
    out, start, shown = Text(), 0, ""
    for end in ends:
        # Decoded from the beginning: some tokenizers drop the space in front of a lone piece.
        text = tokenizer.decode(token_T[:end].tolist(), clean_up_tokenization_spaces=False)
        piece = text[len(shown) :]
        if is_label_T[start]:
            out.append(f"[[{piece}]]" if plain else piece)
        else:
            out.append(piece, style="" if plain else "bright_black")
        start, shown = end, text
    return out
