"""Shares, words and order of the prompts."""

from collections import Counter
from string import Formatter

import pytest

from train.distill.kinds.material import Text
from train.distill.kinds.mix import KINDS, Mix
from train.distill.kinds.parts import PARTS
from train.distill.kinds.topics import TOPICS

SORTS = ("opening", "problem", "passage", "sentence", "typos", "code", "term")


@pytest.fixture(scope="module")
def texts():
    found = {s: [Text(f"{s}{i}", (f"[{s} {{{i}}}]",)) for i in range(3000)] for s in SORTS}
    dialogues = [Text(f"d{i}", (f"[dialogue {i}]", "second", "third")) for i in range(300)]
    return found | {"dialogue": dialogues}


@pytest.fixture(scope="module")
def made(texts):
    return Mix(texts, "train", 0).prompts(2000)


def test_shares_are_complete_and_kept(made):
    assert sum(kind.share for kind in KINDS) == 1000
    assert len({kind.name for kind in KINDS}) == len(KINDS)
    assert {name: len(found) for name, found in made.items()} == {
        kind.name: 2 * kind.share for kind in KINDS
    }


def test_no_text_is_used_twice_and_no_question_asked_twice(made):
    prompts = [prompt for of_kind in made.values() for prompt in of_kind]
    assert len({prompt.questions[0] for prompt in prompts}) == len(prompts)
    names = [prompt.name.split(":")[1] for kind in KINDS if kind.sort for prompt in made[kind.name]]
    assert len(set(names)) == len(names)


def test_texts_are_in_the_questions_as_they_are(made):
    """With their braces; what is left of no template is a slot."""
    for kind in KINDS:
        for prompt in made[kind.name]:
            begin = prompt.name.split(":")[1].rstrip("0123456789")
            own = f"[{'dialogue' if begin == 'd' else begin} "
            assert (own in prompt.questions[0]) == (kind.sort is not None)
            assert ("{" in prompt.questions[0]) == (kind.sort not in (None, "dialogue"))
            assert not any("{" in question for question in prompt.questions[1:])


def test_slots_of_templates_are_known():
    for kind in KINDS:
        for template in (*kind.templates, *kind.follow_ups):
            slots = {slot for _, slot, _, _ in Formatter().parse(template) if slot}
            assert slots - {"text"} <= set(TOPICS), template
            assert ("text" in slots) == (kind.sort is not None and template in kind.templates)


def test_a_third_goes_on_and_a_conversation_with_its_own_questions(made):
    assert {prompt.questions[1:] for prompt in made["turns"]} == {("second", "third")}
    others = [
        prompt for kind in made for prompt in made[kind] if kind not in ("turns", "continuation")
    ]
    counts = Counter(len(prompt.questions) for prompt in others)
    assert set(counts) == {1, 2}
    assert counts[2] / len(others) == pytest.approx(1 / 3, abs=0.05)


def test_parts_share_no_topic():
    """Of long lists; the first word of each product and role tells."""
    products = {}
    for part in PARTS:
        asked = [p.questions[0] for p in Mix({}, part, 0).prompts(4000)["review"]]
        products[part] = {x for x in TOPICS["product"] if any(str(x) in q for q in asked)}
        assert products[part]
    assert not products["train"] & (products["choose"] | products["final"])
    assert not products["choose"] & products["final"]


def test_every_kind_of_topic_has_prompts_in_every_part():
    for part in PARTS:
        made = Mix({}, part, 0).prompts(400)
        for kind in KINDS:
            assert bool(made[kind.name]) == (kind.sort is None)


def test_any_stretch_is_a_fair_mix(texts):
    mix = Mix(texts, "train", 0)
    prompts = mix.shuffled(mix.prompts(2000))
    begin = Counter(prompt.name.split(":")[0] for prompt in prompts[:1000])
    assert all(abs(begin[kind.name] - kind.share) < 4 * kind.share**0.5 for kind in KINDS)


def test_seed_and_names_decide_alone(texts, made):
    backwards = {sort: texts[sort][::-1] for sort in reversed(texts)}
    assert Mix(backwards, "train", 0).prompts(2000) == made
    assert Mix(texts, "train", 1).prompts(2000) != made
