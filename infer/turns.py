"""Measuring side by side: everyone takes turns, so that a busy moment of the machine hits all."""

import itertools
from collections.abc import Callable, Sequence
from typing import TypeVar

Item = TypeVar("Item")
Answer = TypeVar("Answer")


def take_turns(
    sides: Sequence[Callable[[Item], Answer]],
    items: Sequence[Item],
    rounds: int,
    advance: Callable[[], None],
) -> list[list[list[Answer]]]:
    """Lets all sides do the first item, then all the second, and so on, `rounds` times over.

    Args:
      sides: what is measured, in the order of their turns.
      items: what each of them is given, one at a time.
      rounds: how often everything is repeated.
      advance: called after each turn, for a progress bar.

    Returns:
      What the sides returned, indexed [side][round][item].
    """
    answers: list[list[list[Answer]]] = [[[] for _ in range(rounds)] for _ in sides]
    for number, item in itertools.product(range(rounds), items):
        for side, own in zip(sides, answers, strict=True):
            own[number].append(side(item))
            advance()
    return answers


def median_run(runs: Sequence[Answer], seconds: Callable[[Answer], float]) -> Answer:
    """The run whose time is the median; of an even number of runs the slower one in the middle."""
    return sorted(runs, key=seconds)[len(runs) // 2]
