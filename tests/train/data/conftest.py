"""A cache folder of its own for every test."""

import pytest

from tests.train.data.samples import character_tokenizer, write_rows


@pytest.fixture(scope="package")
def tokenizer():
    return character_tokenizer()


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MEDUSA_JAX_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def make_file(tmp_path):
    """Writes rows as JSON lines; returns the path as text."""

    def make(rows, name="data.jsonl"):
        return write_rows(tmp_path / name, rows)

    return make
