"""Choices that depend on names alone: the same on every machine and in every Python."""

import hashlib
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


def number(*key: object) -> int:
    """A number of 64 bits, uniform over all keys."""
    text = "\n".join(map(str, key))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def pick(options: Sequence[T], *key: object) -> T:
    """One of the options, all equally likely."""
    return options[number(*key) % len(options)]
