"""From a file to batches: splits, cuts and counts, and streams that resume byte for byte."""

import json
import os
from pathlib import Path

import grain
import numpy as np
import pytest

from medusa_jax import UserError
from tests.train.data.samples import character_tokenizer, row
from train.data import pipeline, sharegpt, tokens
from train.data.sources import Document

T = 64


def many(count=150):
    """Chunks of conversations; each holds a text of its own."""
    return [
        row(f"q{i}", f"answer {i} " + "x" * (i % 37), name=f"base{i // 3}_{i % 3}")
        for i in range(count)
    ]


def load(path, tokenizer, **kwargs):
    settings = {"seq_len": T, "held_out": 0.1, "progress": False}
    return pipeline.load_data(path, tokenizer, **(settings | kwargs))


def as_bytes(batch):
    return {name: (x.dtype.str, x.shape, x.tobytes()) for name, x in batch.items()}


def texts(tokenizer, documents):
    return ["".join(tokenizer.convert_ids_to_tokens(d["token"].tolist())) for d in documents]


@pytest.fixture
def splits(make_file, tokenizer):
    return load(make_file(many()), tokenizer)


def test_splits_by_conversation_and_loses_nothing(splits, tokenizer):
    train, held_out = (texts(tokenizer, part) for part in (splits.train, splits.held_out))
    expected = [
        f"<|user|>q{i}<end>\n<|assistant|>answer {i} {'x' * (i % 37)}<end>\n" for i in range(150)
    ]
    tokenized = {
        "".join(tokenizer.convert_ids_to_tokens(tokenizer(e)["input_ids"][:T])) for e in expected
    }
    assert sorted(train + held_out) == sorted(tokenized)
    bases = [
        {int(t.split("answer ")[1].split(" ")[0]) // 3 for t in part} for part in (train, held_out)
    ]
    assert not bases[0] & bases[1]
    assert 1 <= len(bases[1]) <= 15


def test_a_conversation_is_held_out_wherever_it_stands(make_file, tokenizer, splits):
    part = load(make_file(many()[60:]), tokenizer)
    all_held_out, all_train = (set(texts(tokenizer, x)) for x in (splits.held_out, splits.train))
    assert set(texts(tokenizer, part.held_out)) <= all_held_out
    assert set(texts(tokenizer, part.train)) <= all_train


@pytest.mark.parametrize("name", [None, "", "same"])
def test_rows_without_names_of_their_own_are_held_out_one_by_one(make_file, tokenizer, name):
    """All had one hash, so that all were held out, or none."""
    rows = [row(f"q{i}", f"a{i}") | {"id": name} for i in range(60)]
    splits = load(make_file(rows), tokenizer, held_out=0.3)
    assert len(splits.train) > len(splits.held_out) > 5


def test_at_least_one_conversation_is_held_out_unless_none_is_wanted(make_file, tokenizer):
    path = make_file(many(9))
    assert len(load(path, tokenizer, held_out=1e-6).held_out) == 3
    assert len(load(path, tokenizer, held_out=0.0).held_out) == 0
    with pytest.raises(UserError, match="too few conversations"):
        load(make_file(many(1)), tokenizer)


def test_cuts_and_what_is_left_out_are_counted(make_file, tokenizer, capsys):
    rows = [row("a", "b" * 100, name="l"), row("q" * 100, "late", name="m"), row("a", name="n")]
    path = make_file([*rows, {"id": "bad"}, row("a", "b", name="o")])
    splits = load(path, tokenizer, held_out=0.0, data_errors="skip", progress=True)
    assert [len(d["token"]) for d in splits.train] == [T, 8]
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == f"{path}: 2 documents (0 held out), 72 tokens; 1 cut at 64 tokens"
    assert lines[1].startswith("1 row left out, the first: ")
    assert f"{path}:4: " in lines[1]
    assert lines[2] == "2 without labels in their first 64 tokens left out"
    longer = load(path, tokenizer, held_out=0.0, data_errors="skip", seq_len=200)
    assert len(longer.train) == 3


def test_small_collections_that_count_as_conversations_are_named(make_file, tokenizer):
    """Ids such as "train_7" look like those of chunks; most of a file may be held out."""
    names = [f"{name}_{i}" for name in ("first", "second") for i in range(30)]
    path = make_file([row("a", "b", name=name) for name in names])
    splits = load(path, tokenizer, held_out=0.02)
    assert len(splits.held_out) == 30
    assert "rows named NAME_0, NAME_1, ... count as one conversation" in splits.summary
    for held_out in (0.0, 0.4):
        assert "NAME_0" not in load(path, tokenizer, held_out=held_out).summary


def test_long_conversations_of_the_sample_stop_and_bad_rows_do_not(
    make_file, tokenizer, monkeypatch
):
    path = make_file([{"id": "bad"}, row("a", "b" * 100, name="l")])
    monkeypatch.setattr(sharegpt, "sharegpt_path", lambda *_: Path(path))
    with pytest.raises(UserError, match=r"107 tokens, more than seq_len=64"):
        load("sharegpt", tokenizer, held_out=0.0, data_errors="stop")


def test_a_conversation_longer_than_the_sequence_stops_or_is_cut(make_file, tokenizer):
    path = make_file([row("a", "b"), row("a", "b" * 100, name="l")])
    with pytest.raises(UserError, match=rf"{path}:2: .* 107 tokens, more than seq_len={T} .*=cut"):
        load(path, tokenizer, held_out=0.0, data_errors="stop")
    assert len(load(path, tokenizer, held_out=0.0, data_errors="stop", seq_len=200).train) == 2
    assert "1 cut at 64 tokens" in load(path, tokenizer, held_out=0.0, data_errors="cut").summary
    with pytest.raises(UserError, match=r"data.jsonl:2: "):
        load(make_file([row("a", "b"), {"id": "bad"}]), tokenizer, data_errors="cut")


def test_tokens_are_made_once_for_a_tokenizer_and_a_template(make_file, tokenizer, monkeypatch):
    path = make_file(many(9))
    first = load(path, tokenizer)
    monkeypatch.setattr(tokens, "_write", None)
    again = load(path, tokenizer, seq_len=20)
    for a, b in zip(first.train, again.train, strict=True):
        np.testing.assert_array_equal(a["token"][:20], b["token"])
    with pytest.raises(TypeError):
        load(path, character_tokenizer("{% for m in messages %}{{ m.content }}{% endfor %}"))


def test_a_refused_conversation_stops_or_is_counted(make_file):
    template = "{% if messages[0].content == 'bad' %}{{ raise_exception('no') }}{% endif %}"
    tokenizer = character_tokenizer(
        template + "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<end>{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>{% endif %}"
    )
    path = make_file([row("good", "x"), row("bad", "x")])
    with pytest.raises(UserError, match=r"data.jsonl:2: .* refuses .*no .*data_errors=skip"):
        load(path, tokenizer, held_out=0.0)
    splits = load(path, tokenizer, held_out=0.0, data_errors="skip")
    assert len(splits.train) == 1
    assert "1 row left out, the first: " in splits.summary


def test_without_a_template_the_file_is_not_blamed(make_file):
    with pytest.raises(UserError, match=r"^the tokenizer has no chat template"):
        load(make_file(many(3)), character_tokenizer(None), data_errors="skip")


def test_plain_text_is_learned_whole_with_its_end():
    class Texts:
        name, fingerprint, skipped, first_skipped, data_errors = "t", "t", 0, "", "stop"

        def __len__(self):
            return 1

        def read(self, numbers):
            return [Document("t", "b", None, "one two") for _ in numbers]

    plain = character_tokenizer(None, eos_token="</s>", bos_token="<s>")
    found = tokens.tokenize_source(Texts(), plain, progress=False).document(0)
    assert "".join(plain.convert_ids_to_tokens(found.token_T.tolist())) == "one two</s>"
    assert found.is_label_T.all()


def batches_of(splits, **kwargs):
    settings = {"batch_size": 4, "seq_len": T, "seed": 5}
    return pipeline.train_batches(splits.train, **(settings | kwargs))


@pytest.mark.parametrize("steps", [0, 1, 7, 23, 40])
def test_resumed_streams_are_equal_byte_for_byte(splits, steps):
    whole = batches_of(splits)
    for _ in range(steps):
        next(whole)
    state = json.loads(json.dumps(whole.get_state()))
    expected = [as_bytes(next(whole)) for _ in range(30)]
    resumed = batches_of(splits)
    next(resumed)
    resumed.set_state(state)
    assert [as_bytes(next(resumed)) for _ in range(30)] == expected


def test_parts_of_processes_make_up_the_batch_whatever_their_number(splits):
    whole = batches_of(splits)
    parts = [batches_of(splits, shard_index=i, shard_count=2) for i in range(2)]
    for _ in range(25):
        batch, halves = next(whole), [next(part) for part in parts]
        assert halves[0]["token"].shape == (2, T)
        joined = {name: np.concatenate([half[name] for half in halves]) for name in batch}
        assert as_bytes(joined) == as_bytes(batch)
    assert json.dumps(parts[0].get_state()) == json.dumps(whole.get_state())


def test_a_process_reads_the_tokens_of_its_own_rows_alone(splits, monkeypatch):
    read, fill = [], pipeline.Documents.fill

    def spied(documents, rows):
        read.append(np.unique(rows["number"][rows["segment"] > 0]))
        return fill(documents, rows)

    monkeypatch.setattr(pipeline.Documents, "fill", spied)
    batch = next(batches_of(splits, shard_index=1, shard_count=4))
    assert batch["token"].shape == (1, T)
    (numbers,) = read
    assert len(numbers) == batch["segment"].max()


def test_every_epoch_is_another_permutation_of_all(splits):
    """Bins are filled across the end of an epoch, so documents are counted over many epochs."""
    stream = batches_of(splits, batch_size=64)
    firsts = [next(stream) for _ in range(30)]
    starts = np.concatenate([b["token"][b["position"] == 0] for b in firsts])
    assert len(starts) > 10 * len(splits.train)
    seen = {}
    for batch in firsts:
        for r in range(64):
            for s in range(1, batch["segment"][r].max() + 1):
                key = batch["token"][r][batch["segment"][r] == s].tobytes()
                seen[key] = seen.get(key, 0) + 1
    assert len(seen) == len(splits.train)
    assert max(seen.values()) - min(seen.values()) <= 3


def test_the_seed_is_the_order(splits):
    a, b, c = batches_of(splits), batches_of(splits, seed=6), batches_of(splits)
    first = as_bytes(next(a))
    assert as_bytes(next(b)) != first
    assert as_bytes(next(c)) == first


def test_no_two_seeds_share_the_order_of_an_epoch(splits, monkeypatch):
    """Grain's own would: it adds the number of the epoch to the seed."""
    orders, count, pack = [], len(splits.train), pipeline.pack

    def noted(numbers, *args, **kwargs):
        orders.extend(tuple(numbers[e * count + i] for i in range(count)) for e in range(4))
        return pack(numbers, *args, **kwargs)

    monkeypatch.setattr(pipeline, "pack", noted)
    for seed in (0, 1, 2, 3, 2**32 - 1, 2**40 + 7):
        batches_of(splits, seed=seed)
    assert len(set(orders)) == len(orders) == 24
    grain_s = grain.MapDataset.range(count).shuffle(seed=0)
    assert orders[0] == tuple(grain_s[i] for i in range(count))  # runs of seed 0 are as ever


def test_held_out_batches_are_one_pass_with_padding_rows(splits):
    settings = {"batch_size": 4, "seq_len": T}
    batches = list(pipeline.held_out_batches(splits.held_out, **settings))
    assert all(batch["token"].shape == (4, T) for batch in batches)
    count = sum(int(batch["segment"].max(axis=1).sum()) for batch in batches)
    assert count == len(splits.held_out)
    tokens_in = sum(len(d["token"]) for d in splits.held_out)
    assert sum(int((batch["segment"] > 0).sum()) for batch in batches) == tokens_in
    halves = [
        list(pipeline.held_out_batches(splits.held_out, shard_index=i, shard_count=2, **settings))
        for i in range(2)
    ]
    for batch, first, second in zip(batches, *halves, strict=True):
        joined = {name: np.concatenate([first[name], second[name]]) for name in batch}
        assert as_bytes(joined) == as_bytes(batch)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"held_out": 1.0}, "held_out is 1.0"),
        ({"seq_len": 1}, "seq_len is 1"),
        ({"data_errors": "no"}, "data_errors"),
    ],
)
def test_settings_out_of_range(make_file, tokenizer, change, message):
    with pytest.raises(UserError, match=message):
        load(make_file(many(9)), tokenizer, **change)


def test_a_batch_that_cannot_be_divided(splits):
    with pytest.raises(UserError, match=r"batch_size 4 .* among 3"):
        batches_of(splits, shard_count=3)


def test_nothing_unfinished_stays_in_the_cache(make_file, tokenizer, cache):
    load(make_file(many(9)), tokenizer)
    with pytest.raises(UserError):
        load(make_file([row("x"), {"id": "bad"}]), tokenizer)
    names = sorted(name.partition("-")[0] for name in os.listdir(cache / "data"))
    assert names == ["conversations", "tokens"]
