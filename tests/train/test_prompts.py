"""The command: a file that self_distill reads, the shares that it tells, MT-bench untouched."""

import ast
import json
import re

from tests.commands import ROOT, quick, run_many
from tests.conftest import shared_path
from train.distill.conversations import read_conversations
from train.distill.kinds.mix import KINDS, Mix


def test_the_file_is_what_self_distill_reads_and_errors_are_one_line(long_conversations, tmp_path):
    lines = [
        [f"--output={tmp_path / 'a'}", f"--conversations={long_conversations}", "--count=300"],
        [f"--output={tmp_path / 'b'}", f"--conversations={long_conversations}", "--count=300"],
        [],
        [f"--output={tmp_path / 'out'}", f"--conversations={tmp_path / 'nothing.json'}"],
    ]
    made, again, *refused = run_many("train.prompts", lines, quick())
    assert (made.code, again.code) == (0, 0)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    found = read_conversations(tmp_path / "a", seed=0, max_turns=None, data_errors="stop")
    kinds = {conversation.name.split(":")[0] for conversation in found}
    assert kinds == {"first", "turns"} | {kind.name for kind in KINDS if kind.sort is None}
    assert f"a: {len(found)} prompts" in made.out
    for result, words in zip(refused, ("--output is needed", "nothing.json"), strict=True):
        assert result.code == 2
        assert words in result.err
        assert len(result.err.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_help_tells_the_shares():
    source = (ROOT / "train" / "prompts.py").read_text()
    help_text = " ".join(str(ast.get_docstring(ast.parse(source))).split())
    told = dict(re.findall(r"(\w+) (\d+(?:\.\d)?)[,.]", help_text))
    assert {kind.name: f"{kind.share / 10:g}" for kind in KINDS}.items() <= told.items()


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
