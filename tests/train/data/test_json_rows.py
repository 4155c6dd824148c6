"""Streams of rows: equal to json's own reading, wherever the text is cut or split."""

import json

import pytest

from medusa_jax import UserError
from train.data import json_rows
from train.data.json_rows import read_json_rows

VALUES = [
    {"a": 'quote " and \\ and \u2028 \U0001f600', "b": [1.5e-3, -7, True, None]},
    {},
    {"deep": [[[{"x": "]},{"}]]], "n": float("-inf")},
    {"last": "ä\ny"},
]


def rows(path, text):
    path.write_text(text, encoding="utf-8")
    return list(read_json_rows(path))


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("chunk", [1, 7, 1 << 20])
def test_every_beginning_of_an_array_gives_the_rows_that_are_whole(
    tmp_path, monkeypatch, indent, chunk
):
    monkeypatch.setattr(json_rows, "_CHUNK", chunk)
    text = json.dumps(VALUES, indent=indent)
    ends, position = [], 1
    for value in VALUES:
        start = text.index("{", position)
        found, position = json.JSONDecoder().raw_decode(text, start)
        assert found == value
        ends.append(position)
    for length in range(1, len(text)):
        found = rows(tmp_path / "x.json", text[:length])
        whole = [row.value for row in found if not row.problem]
        assert whole == VALUES[: sum(length >= end for end in ends)], text[:length]
        assert found[-1].is_cut
        assert all(not row.problem for row in found[:-1])
    assert [row.value for row in rows(tmp_path / "x.json", text)] == VALUES


class _OtherWords(json.JSONDecoder):
    """Finds the same errors at the same places, and words them as another Python might."""

    def raw_decode(self, s, idx=0):
        try:
            return super().raw_decode(s, idx)
        except json.JSONDecodeError as error:
            raise json.JSONDecodeError("oh dear", error.doc, error.pos) from error


@pytest.mark.parametrize("end", ['"b', '"\\', '"\\u00', "1.", "tr"])
def test_a_cut_is_told_by_where_the_text_ends_and_not_by_a_message(tmp_path, monkeypatch, end):
    monkeypatch.setattr(json, "JSONDecoder", _OtherWords)
    (row,) = rows(tmp_path / "x.json", '[{"a": ' + end)
    assert row.is_cut


@pytest.mark.parametrize("text", ['[{"a": "b\n', '[{"a": "\\x', '[{"a": "\\u00g', '[{"a": 1..'])
def test_what_no_further_text_could_mend_is_no_cut(tmp_path, text):
    (row,) = rows(tmp_path / "x.json", text)
    assert row.problem.startswith("not valid JSON")
    assert not row.is_cut


@pytest.mark.parametrize("chunk", [1, 2, 3])
def test_numbers_are_read_to_their_end(tmp_path, monkeypatch, chunk):
    monkeypatch.setattr(json_rows, "_CHUNK", chunk)
    values = [1234, -5, 6.25e-3, 7]
    found = rows(tmp_path / "x.json", json.dumps(values))
    assert [row.value for row in found] == values


def test_half_a_surrogate_pair_and_literals_beyond_json_are_kept(tmp_path):
    text = '[{"a": "\\ud800", "b": [NaN, Infinity]},\n{"a": "\\udc00"}]'
    first, second = rows(tmp_path / "x.json", text)
    assert first.value["a"] == "\ud800"
    assert str(first.value["b"]) == "[nan, inf]"
    assert (second.line, second.value) == (2, {"a": "\udc00"})


def test_a_long_open_string_is_judged_at_once(tmp_path):
    """Not by trying every way to divide it, nor with a stack as deep as it is long."""
    (row,) = rows(tmp_path / "x.json", '[{"a": "' + "x\\n" * 1_500_000)
    assert row.is_cut


def test_lines_are_counted_in_arrays_and_json_lines(tmp_path):
    text = '\n[\n {"a":\n 1},\n\n {"b": 2} ]'
    assert [(r.line, r.value) for r in rows(tmp_path / "x", text)] == [(3, {"a": 1}), (6, {"b": 2})]
    text = '\n{"a": 1}\n\n{"b": "\u2028"}\n{"c"'
    found = rows(tmp_path / "x", text)
    assert [row.line for row in found] == [2, 4, 5]
    assert found[2].problem.startswith("not valid JSON")


@pytest.mark.parametrize(
    ("text", "line", "reason"),
    [
        ('[{"a": 1},\n{"a" 1},\n{"a": 2}]', 2, "Expecting ':'"),
        ('[{"a": 1},\n{"a": bad}]', 2, "Expecting value"),
        ('[{"a": 1}\n{"a": 2}]', 2, '"," is missing'),
        ("[" * 100_000, 1, "nested too deeply"),
    ],
)
def test_an_array_broken_in_its_middle_ends_there_and_is_not_taken_for_cut(
    tmp_path, text, line, reason
):
    last = rows(tmp_path / "x.json", text)[-1]
    assert (last.line, last.is_cut) == (line, False)
    assert reason in last.problem


@pytest.mark.parametrize("form", ['[{"a": %s}]', '{"a": %s}'])
def test_a_number_beyond_pythons_limit_is_a_problem_of_its_row(tmp_path, form):
    (row,) = rows(tmp_path / "x.json", form % ("1" * 5000))
    assert "too many digits" in row.problem


def test_a_broken_row_does_not_make_the_reader_swallow_the_file(tmp_path, monkeypatch):
    monkeypatch.setattr(json_rows, "_CHUNK", 100)
    path = tmp_path / "x.json"
    path.write_text('[{"a" 1},' + "1," * 100_000)
    with path.open() as file:
        file.read(1)
        assert next(json_rows._ArrayReader(file, 1).rows()).problem
        assert len(file.read()) > 150_000


@pytest.mark.parametrize("text", ["", " \n\t", "[]", "[ \n]"])
def test_no_rows(tmp_path, text):
    assert rows(tmp_path / "x.json", text) == []


def test_trailing_comma_and_byte_order_mark_are_forgiven(tmp_path):
    assert [row.value for row in rows(tmp_path / "x.json", "\ufeff[1, 2, ]")] == [1, 2]


def test_a_folder_is_no_file(tmp_path):
    with pytest.raises(UserError, match=r"^cannot read \S+: Is a directory$"):
        list(read_json_rows(tmp_path))
