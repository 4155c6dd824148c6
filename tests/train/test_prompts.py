"""The command: a file that self_distill reads, the shares that it tells, MT-bench untouched."""

import json
import re

import pytest
from absl import flags
from absl.testing import flagsaver

from medusa_jax.errors import UserError
from tests.conftest import shared_path
from train import prompts
from train.distill.conversations import read_conversations
from train.distill.kinds.mix import KINDS, Mix


def run(path, **more):
    if not flags.FLAGS.is_parsed():
        flags.FLAGS(["test"])
    with flagsaver.flagsaver(output=str(path), **more):
        prompts.main([])


def test_the_file_is_what_self_distill_reads(long_conversations, tmp_path, capsys):
    for name in ("a", "b"):
        run(tmp_path / name, conversations=str(long_conversations), count=300)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    found = read_conversations(tmp_path / "a", seed=0, max_turns=None, data_errors="stop")
    kinds = {conversation.name.split(":")[0] for conversation in found}
    assert kinds == {"first", "turns"} | {kind.name for kind in KINDS if kind.sort is None}
    assert f"a: {len(found)} prompts" in capsys.readouterr().out


def test_help_tells_the_shares():
    told = dict(re.findall(r"(\w+) (\d+(?:\.\d)?)[,.]", " ".join(str(prompts.__doc__).split())))
    assert {kind.name: f"{kind.share / 10:g}" for kind in KINDS}.items() <= told.items()


def test_errors_are_one_line(tmp_path):
    with pytest.raises(UserError, match="--output is needed"):
        run("")
    with pytest.raises(UserError, match=r"nothing\.json"):
        run(tmp_path / "out", conversations=str(tmp_path / "nothing.json"))
    assert not (tmp_path / "out").exists()


def words(text):
    found = re.findall(r"\w+", text.lower())
    return {tuple(found[i : i + 6]) for i in range(len(found) - 5)}


def test_mt_bench_gives_nothing():
    """No six words in a row of its questions are in what is asked about topics of ours."""
    path = shared_path("data/mt_bench_question.jsonl")
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    theirs = set.union(*(words(turn) for row in rows for turn in row["turns"]))
    made = Mix({}, "train", 0).prompts(20_000)
    for prompt in (prompt for of_kind in made.values() for prompt in of_kind):
        assert not words(" ".join(prompt.questions)) & theirs, prompt
    assert len(theirs) > 1000
