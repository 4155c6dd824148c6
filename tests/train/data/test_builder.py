"""Prepared files hold what the file holds, in both formats, and are made once."""

import json
import os

import pytest

from medusa_jax import UserError
from tests.train.data.samples import row
from train.data import builder, sources

# More rows than tensorflow-datasets' Parquet writer handles well by itself.
ROWS = [row(f"q\u2028{i}", f"a {i}", name=f"c{i // 2}_{i % 2}") for i in range(230)]


def contents(source):
    return [[m["content"] for m in c.messages] for c in source.read(range(len(source)))]


@pytest.mark.parametrize("has_array_record", [True, False])
def test_every_row_comes_back_in_order(make_file, cache, monkeypatch, has_array_record):
    if has_array_record:
        pytest.importorskip("array_record")
    monkeypatch.setattr(builder, "_has_array_record", lambda: has_array_record)
    path = make_file(ROWS)
    source = sources.open_source(path, progress=False)
    assert contents(source) == [[f"q\u2028{i}", f"a {i}"] for i in range(230)]
    third = source.read([2])[0]
    assert third.where == f"{path}:3"
    assert third.name == ROWS[2]["id"]
    assert [m["role"] for m in third.messages] == ["user", "assistant"]
    assert not third.truncated
    suffix = "array_record" if has_array_record else "parquet"
    assert list(cache.rglob(f"*.{suffix}-*"))


def test_prepared_once_by_content_and_nothing_left_lying_about(
    make_file, cache, capfd, monkeypatch
):
    path = make_file(ROWS[:3])
    first = sources.open_source(path)
    assert capfd.readouterr() == ("", "")
    monkeypatch.setattr(builder, "_build", None)  # not needed again
    os.rename(path, path + ".moved.jsonl")
    again = sources.open_source(path + ".moved.jsonl")
    assert again.fingerprint == first.fingerprint
    assert contents(again) == contents(first)
    monkeypatch.undo()
    monkeypatch.setenv("MEDUSA_JAX_CACHE", str(cache))
    other = sources.open_source(make_file(ROWS[:4]))
    assert other.fingerprint != first.fingerprint
    assert len(os.listdir(cache / "data")) == 2


def test_truncated_replies_stay_marked(make_file):
    path = make_file([ROWS[0], ROWS[1] | {"truncated": True}])
    assert [c.truncated for c in sources.open_source(path).read([0, 1])] == [False, True]


def test_bad_rows_stop_or_are_counted_every_time(make_file):
    path = make_file([ROWS[0], {"id": "x", "conversations": []}, ROWS[1]])
    with pytest.raises(UserError, match=r"data.jsonl:2: .* empty .*data_errors=skip") as error:
        sources.open_source(path)
    assert len(str(error.value).splitlines()) == 1
    for _ in range(2):
        source = sources.open_source(path, "skip")
        assert (len(source), source.skipped) == (2, 1)
        assert "data.jsonl:2" in source.first_skipped


def test_the_slower_of_two_processes_takes_what_the_faster_made(tmp_path):
    for name in ("made", "kept"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "by").write_text(name)
    builder.publish(tmp_path / "made", tmp_path / "kept")
    assert (tmp_path / "kept" / "by").read_text() == "kept"
    with pytest.raises(OSError, match="none"):
        builder.publish(tmp_path / "none", tmp_path / "target")


def test_cache_that_cannot_be_written(make_file, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("MEDUSA_JAX_CACHE", str(tmp_path / "file"))
    with pytest.raises(UserError, match="MEDUSA_JAX_CACHE"):
        sources.open_source(make_file(ROWS[:1]))


def test_json_array_that_is_cut_off(tmp_path):
    path = tmp_path / "x.json"
    path.write_text(json.dumps(ROWS)[:-30])
    source = sources.open_source(str(path))
    assert (len(source), source.skipped) == (229, 1)
    assert "cut off" in source.first_skipped
