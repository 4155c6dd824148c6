"""Packed rows hold every document whole, numbered, and with positions of its own."""

import grain
import numpy as np
import pytest

from train.data.packing import pack


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
    dataset = grain.MapDataset.source(items).to_iter_dataset()
    return list(pack(dataset, seq_len, shuffle_seed=seed))


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
