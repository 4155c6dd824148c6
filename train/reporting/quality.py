"""How answers differ from the original model's, and how much they repeat themselves."""

from collections.abc import Sequence
from typing import Any

_NGRAM = 4


def agreed_tokens(answer: Sequence[int], original: Sequence[int]) -> int:
    """How many tokens two answers share before they first differ."""
    pairs = zip(answer, original, strict=False)
    return next((t for t, (a, b) in enumerate(pairs) if a != b), min(len(answer), len(original)))


def repeated_ngrams(answer: Sequence[int]) -> tuple[int, int]:
    """How many of an answer's 4-grams occurred in it before, and how many there are.

    Example: 1 2 3 4 1 2 3 4 has the 4-grams 1234 2341 3412 4123 1234; one of five is repeated.
    """
    ngrams = [tuple(answer[t : t + _NGRAM]) for t in range(len(answer) - _NGRAM + 1)]
    return len(ngrams) - len(set(ngrams)), len(ngrams)


def compare_answers(answer: Sequence[int], original: Sequence[int]) -> dict[str, Any]:
    """A question's row: both lengths, agreement and repetition, all as whole numbers."""
    repeated, ngrams = repeated_ngrams(answer)
    return {
        "tokens": len(answer),
        "original_tokens": len(original),
        "agreed": agreed_tokens(answer, original),
        "is_identical": int(list(answer) == list(original)),
        "repeated": repeated,
        "ngrams": ngrams,
    }
