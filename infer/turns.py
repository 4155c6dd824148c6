"""Measuring side by side: everyone takes turns, so that a busy moment of the machine hits all."""

import itertools
import math
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

Item = TypeVar("Item")
Answer = TypeVar("Answer")

CONFIDENCE = 0.9
MOST_ROUNDS = 25  # odd, like the others, so that the median is one of them
_FEWEST_ROUNDS = 5
_HURRIED_ROUNDS = 3  # when time is up
_SECONDS = 60.0
_WIDTH = 0.06  # of the interval, as a share of the median


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


def until_steady(
    measure: Callable[[], Answer],
    ratio: Callable[[Answer], float],
    show: Callable[[Sequence[float]], None],
    most: int = MOST_ROUNDS,
    clock: Callable[[], float] = time.perf_counter,
) -> list[Answer]:
    """Repeats a measurement until the median of its ratio is known well, or a minute has passed.

    Args:
      measure: does a round.
      ratio: the number that is wanted of a round.
      show: called after each round with the ratios of all so far, for a progress bar.
      most: rounds, an odd number.
      clock: seconds.

    Returns:
      Every round, an odd number of them.
    """
    rounds: list[Answer] = []
    ratios: list[float] = []
    start = clock()
    while len(rounds) < most:
        rounds.append(measure())
        ratios.append(ratio(rounds[-1]))
        show(ratios)
        if len(rounds) % 2 and _is_enough(ratios, clock() - start):
            break
    return rounds


def _is_enough(ratios: Sequence[float], seconds: float) -> bool:
    if seconds >= _SECONDS:
        return len(ratios) >= _HURRIED_ROUNDS
    low, high = median_interval(ratios)
    return len(ratios) >= _FEWEST_ROUNDS and high - low <= _WIDTH * median_run(ratios, float)


def median_interval(values: Sequence[float]) -> tuple[float, float]:
    """The values between which the median of their distribution lies, with `CONFIDENCE`.

    Whatever the distribution, each value is below its median with probability 1/2, hence the
    binomial numbers. With fewer than 5 values no two are certain enough: the outermost are taken.
    """
    ordered, total, outside, cut = sorted(values), len(values), 1.0, 0
    while cut < (total - 1) // 2:  # leave out one more at either end
        outside += math.comb(total, cut + 1)
        if 2 * outside / 2**total > 1 - CONFIDENCE:
            break
        cut += 1
    return ordered[cut], ordered[-1 - cut]


def median_run(runs: Sequence[Answer], value: Callable[[Answer], float]) -> Answer:
    """The run whose value is the median; for an even number, the larger of the middle two."""
    return sorted(runs, key=value)[len(runs) // 2]
