"""Parts share nothing, and what training holds out belongs to none."""

import hashlib

import numpy as np
import pytest

from train.data.pipeline import _is_held_out
from train.distill.kinds.parts import PARTS, part_of, topics_of

NAMES = [f"name{i}" for i in range(20_000)]


def test_parts_of_names_have_their_sizes():
    parts = [part_of(name) for name in NAMES]
    shares = {"held_out": 0.02, "choose": 0.04, "final": 0.04, "train": 0.90}
    for part, share in shares.items():
        assert parts.count(part) / len(NAMES) == pytest.approx(share, abs=0.006)


def test_what_training_holds_out_is_the_same():
    """The two decide separately, from the same hash."""
    hashes = [hashlib.sha256(name.encode()).digest()[:8] for name in NAMES]
    hash_C = np.array([int.from_bytes(eight, "big") for eight in hashes], np.uint64)
    is_held_out_C = _is_held_out(hash_C, np.ones(len(NAMES), bool), 0.02)
    assert [part_of(name) == "held_out" for name in NAMES] == is_held_out_C.tolist()
    assert is_held_out_C.any()


def test_topics_are_divided_and_a_list_may_grow():
    topics = [f"topic {i}" for i in range(47)]
    parts = [topics_of(part, topics) for part in PARTS]
    assert [len(part) for part in parts] == [39, 4, 4]
    assert sorted(topic for part in parts for topic in part) == sorted(topics)
    for part, longer in zip(parts, (topics_of(p, [*topics, "new"]) for p in PARTS), strict=True):
        assert set(part) <= set(longer)


def test_few_topics_belong_to_all_parts():
    languages = ("French", "Latin")
    assert [topics_of(part, languages) for part in PARTS] == [languages] * 3
