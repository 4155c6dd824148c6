"""Packed rows hold every document whole, numbered, and with positions of its own."""

import dataclasses

import grain
import jax.numpy as jnp
import numpy as np
import pytest

from medusa_jax.config import LlamaConfig, MedusaConfig, RopeConfig
from medusa_jax.nn.llama import Llama, causal_mask
from medusa_jax.objectives.objective import Objective
from tests.medusa_jax.packed import SMALL, quick_jit, random_backbone
from train.data.packing import fill, pack


def documents(lengths):
    """Tokens are never 0 and tell document and position."""
    return [
        {
            "token": np.arange(t, dtype=np.int32) + 1000 * (i + 1),
            "is_label": np.arange(t) % 2 == i % 2,
        }
        for i, t in enumerate(lengths)
    ]


def rows_of(items, seq_len, seed=None):
    token_N, is_label_N = (np.concatenate([x[name] for x in items]) for name in items[0])
    length_C = np.asarray([len(x["token"]) for x in items])
    rows = pack(grain.MapDataset.range(len(items)), length_C, seq_len, shuffle_seed=seed)
    return [fill(row, np.cumsum(length_C) - length_C, token_N, is_label_N) for row in rows]


@pytest.mark.parametrize("seed", [None, 3])
def test_rows_are_those_of_packing_the_tokens_themselves(seed):
    """As grain packs them, which runs before this version did; their checkpoints go on."""
    items = documents(np.random.default_rng(4).integers(1, 33, 400).tolist())
    packed = grain.experimental.FirstFitPackIterDataset(
        grain.MapDataset.source(items).to_iter_dataset(),
        length_struct={"token": 32, "is_label": 32},
        num_packing_bins=64,
        meta_features=("is_label",),
        shuffle_bins=seed is not None,
        seed=seed or 0,
    )
    names = {"token_segment_ids": "segment", "token_positions": "position"}
    rows = rows_of(items, 32, seed)
    for found, expected in zip(rows, packed, strict=True):
        for name, value in expected.items():
            np.testing.assert_array_equal(found[names.get(name, name)], value)


@pytest.mark.parametrize("seed", [None, 3])
def test_documents_come_back_whole(seed):
    lengths = np.random.default_rng(0).integers(1, 33, 300).tolist()
    items = documents([32, *lengths])
    rows = rows_of(items, 32, seed)
    seen = set()
    for row in rows:
        assert {name: (x.shape, x.dtype.name) for name, x in row.items()} == {
            "token": ((32,), "int32"),
            "is_label": ((32,), "bool"),
            "segment": ((32,), "int32"),
            "position": ((32,), "int32"),
        }
        count = row["segment"].max()
        assert sorted(set(row["segment"].tolist()) - {0}) == list(range(1, count + 1))
        padding = row["segment"] == 0
        assert not row["token"][padding].any()
        assert not row["is_label"][padding].any()
        for segment in range(1, count + 1):
            inside = np.flatnonzero(row["segment"] == segment)
            assert (np.diff(inside) == 1).all()
            number = row["token"][inside[0]] // 1000 - 1
            np.testing.assert_array_equal(row["token"][inside], items[number]["token"])
            np.testing.assert_array_equal(row["is_label"][inside], items[number]["is_label"])
            np.testing.assert_array_equal(row["position"][inside], np.arange(len(inside)))
            assert number not in seen
            seen.add(number)
    assert seen == set(range(301))


def test_little_padding_and_a_seeded_order():
    items = documents(np.random.default_rng(1).integers(1, 100, 1000).tolist())
    rows = rows_of(items, 256, seed=1)
    assert np.mean([(row["segment"] == 0).mean() for row in rows[:-50]]) < 0.05
    other = rows_of(items, 256, seed=2)
    same = rows_of(items, 256, seed=1)
    assert all((a["token"] == b["token"]).all() for a, b in zip(rows, same, strict=True))
    assert any((a["token"] != b["token"]).any() for a, b in zip(rows, other, strict=True))


DYNAMIC = dataclasses.replace(
    SMALL, rope=RopeConfig(kind="dynamic", theta=100.0, factor=4.0, original_max_position=4)
)


@pytest.mark.parametrize("config", [SMALL, DYNAMIC], ids=["default", "dynamic"])
def test_a_packed_document_is_computed_as_if_it_were_alone(config: LlamaConfig):
    """Most rotations see distances alone; the base of "dynamic" grows with the position itself."""
    rng = np.random.default_rng(2)
    items = [
        {"token": rng.integers(0, config.vocab_size, t, np.int32), "is_label": np.ones(t, bool)}
        for t in (9, 14, 5, 17)
    ]
    batch = {name: x[None] for name, x in rows_of(items, 48)[0].items()}
    heads = MedusaConfig(num_heads=1, hidden_size=config.hidden_size, vocab_size=config.vocab_size)
    params = {"backbone": random_backbone(config), "heads": {}}
    packed_TD = np.asarray(quick_jit(Objective(config, heads).hidden)(params, batch)[0])
    alone = quick_jit(Llama(config).apply)
    for number, item in enumerate(items, 1):
        length = len(item["token"])
        position_BT = jnp.arange(length, dtype=jnp.int32)[None]
        arguments = ({"params": params["backbone"]}, item["token"][None], position_BT)
        expected_TD = alone(*arguments, causal_mask(length))[0][0]
        found_TD = packed_TD[batch["segment"][0] == number]
        np.testing.assert_allclose(found_TD, expected_TD, rtol=2e-4, atol=2e-5)
