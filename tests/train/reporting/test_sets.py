"""What a report reads is new to all runs."""

import json
from types import SimpleNamespace

from tests.train.data.samples import TEMPLATE, character_tokenizer
from train.data.pipeline import load_data
from train.data.sharegpt import split_hash
from train.reporting.sets import held_out_conversations


def rows_of(names, question):
    turns = [{"from": "human", "value": question}, {"from": "gpt", "value": "yes"}]
    return [{"id": f"{name}_{i}", "conversations": turns} for name in names for i in range(2)]


def test_what_a_run_has_learned_from_is_not_measured(tmp_path, monkeypatch):
    """The first to be held out may have no label that a report looks at: the next was learned."""
    monkeypatch.setenv("MEDUSA_JAX_CACHE", str(tmp_path / "cache"))
    names = sorted((f"c{i}" for i in range(6)), key=split_hash)
    rows = rows_of(names[:1], "why " * 60) + rows_of(names[1:], "why")
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    tokenizer = character_tokenizer("why yes" + TEMPLATE)
    run = load_data(str(path), tokenizer, seq_len=1024, held_out=1e-9, progress=False)
    learned = {tuple(run.train[i]["token"].tolist()) for i in range(len(run.train))}
    lm = SimpleNamespace(tokenizer=tokenizer)
    for max_length, count in ((128, 0), (1024, 2)):
        found = held_out_conversations(lm, str(path), 1e-9, 1024, 9, max_length)
        assert len(found) == count
        assert not {tuple(example.token_T.tolist()) for example in found} & learned
