"""Which part of the material a prompt may be made of: the parts share nothing."""

from collections.abc import Sequence
from typing import TypeVar

from train.data.sharegpt import split_hash
from train.distill.kinds.choices import number

T = TypeVar("T")

# "held_out" is what `config.held_out=0.02` keeps of ShareGPT's own rows, and no prompt is made of
# it. Trees and recipes are chosen on prompts of "choose"; "final" is for measurements that nothing
# was chosen by. The rest is for training.
_UP_TO = {"held_out": 0.02, "choose": 0.06, "final": 0.10}
PARTS = ("train", "choose", "final")

# Topics of which there are fewer belong to all parts: languages, numbers of items, ...
_MIN_DIVIDED = 20


def part_of(name: str) -> str:
    """The part of a conversation, by its base id, or of a problem, by its text.

    Depends on the name alone, so that a part stays what it is when other material is added.
    """
    place = split_hash(name)
    return next((part for part, end in _UP_TO.items() if place <= int(end * 2**64)), "train")


def topics_of(part: str, topics: Sequence[T]) -> Sequence[T]:
    """Topics of one part: of every ten in a row, one is for "choose" and one for "final".

    Depends on the ten alone, so a list may grow at its end, where fewer than ten are for training.
    """
    if len(topics) < _MIN_DIVIDED:
        return topics
    found: list[T] = []
    for start in range(0, len(topics), 10):
        ten = sorted(topics[start : start + 10], key=lambda topic: number("part", topic))
        apart = 2 if len(ten) == 10 else 0
        parts = {"choose": ten[:1], "final": ten[1:apart], "train": ten[apart:]}
        found += parts[part] if apart or part == "train" else []
    return found
