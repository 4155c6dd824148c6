"""Deals texts and topics out to the kinds of prompts, and words the prompts."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from string import Formatter
from typing import Any

from train.distill.kinds import about_texts, about_topics
from train.distill.kinds.choices import number, pick
from train.distill.kinds.kind import Kind
from train.distill.kinds.material import Text
from train.distill.kinds.parts import topics_of
from train.distill.kinds.topics import TOPICS

KINDS = (*about_texts.KINDS, *about_topics.KINDS)

# How often a topic is tried per prompt wanted, as the same question may come out again.
_TRIES = 4


@dataclass(frozen=True)
class Prompt:
    """What a model is asked.

    Attributes:
      name: KIND:TEXT, or KIND:NUMBER where there is no text.
      questions: one or more, to be answered in turn.
    """

    name: str
    questions: tuple[str, ...]

    def row(self) -> dict[str, Any]:
        """The prompt as a row in ShareGPT's format."""
        turns = [{"from": "human", "value": question} for question in self.questions]
        return {"id": self.name, "conversations": turns}


class Mix:
    """Makes prompts of one part."""

    def __init__(self, texts: Mapping[str, Sequence[Text]], part: str, seed: int) -> None:
        """Deals the texts out.

        Args:
          texts: of the part, by sort; kinds whose texts are missing get no prompts.
          part: of `parts.PARTS`; topics are taken from it, too.
          seed: of all choices.
        """
        self._seed = seed
        self._dealt = _deal(texts, seed)
        self._topics = {slot: topics_of(part, topics) for slot, topics in TOPICS.items()}

    def prompts(self, count: int) -> dict[str, list[Prompt]]:
        """About `count` prompts, by kind, in the given shares; fewer where the material runs out.

        No text is used twice and no first question asked twice.
        """
        made: dict[str, list[Prompt]] = {}
        asked: set[str] = set()
        for kind in KINDS:
            made[kind.name] = found = []
            wanted = round(count * kind.share / 1000)
            for prompt in self._candidates(kind, wanted):
                if len(found) < wanted and prompt.questions[0] not in asked:
                    asked.add(prompt.questions[0])
                    found.append(prompt)
        return made

    def shuffled(self, made: Mapping[str, Sequence[Prompt]]) -> list[Prompt]:
        """All prompts, in an order in which every stretch is a fair mix."""
        prompts = [prompt for of_kind in made.values() for prompt in of_kind]
        return sorted(prompts, key=lambda prompt: number(self._seed, "order", prompt.name))

    def _candidates(self, kind: Kind, wanted: int) -> Iterator[Prompt]:
        templates = [t for t in kind.templates if self._can_fill(t)]
        texts = self._dealt[kind.name]
        if kind.sort is None:
            texts = [Text(str(i), ("",)) for i in range(_TRIES * wanted)]
        for text in texts if templates else ():
            name = f"{kind.name}:{text.name}"
            first = self._fill(pick(templates, self._seed, name), name, text.parts[0])
            yield Prompt(name, (first, *text.parts[1:], *self._follow_up(kind, name)))

    def _follow_up(self, kind: Kind, name: str) -> Iterator[str]:
        follow_ups = [t for t in kind.follow_ups if self._can_fill(t)]
        if follow_ups and number(self._seed, "goes on", name) % 3 == 0:
            yield self._fill(pick(follow_ups, self._seed, "next", name), f"{name} next", "")

    def _can_fill(self, template: str) -> bool:
        return all(self._topics[slot] for slot in _slots(template))

    def _fill(self, template: str, name: str, text: str) -> str:
        slots = _slots(template)
        topics = {slot: pick(self._topics[slot], self._seed, slot, name) for slot in slots}
        return template.format(text=text, **topics)


def _slots(template: str) -> list[str]:
    """The slots of a template that topics fill."""
    return [slot for _, slot, _, _ in Formatter().parse(template) if slot and slot != "text"]


def _deal(texts: Mapping[str, Sequence[Text]], seed: int) -> dict[str, list[Text]]:
    """Each text, in random order, goes to one of the kinds for its sort, by the kinds' shares."""
    dealt: dict[str, list[Text]] = defaultdict(list)
    for sort, found in texts.items():
        kinds = [kind for kind in KINDS if kind.sort == sort]
        ends = list(accumulate(kind.share for kind in kinds))
        for text in sorted(found, key=lambda text: number(seed, "text", text.name)):
            place = number(seed, "kind", text.name) % ends[-1]
            taker = next(kind for kind, end in zip(kinds, ends, strict=True) if place < end)
            dealt[taker.name].append(text)
    return dealt
