import builtins
import io
import sys

import pytest

from infer.conversation.lines import read_messages


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize(
    ("text", "messages"),
    [
        ("", []),
        ("one\ntwo\n", ["one", "two"]),
        ("one", ["one"]),
        ("one\\\n two\\\nthree\nfour\n", ["one\n two\nthree", "four"]),
        ("one\\", ["one"]),
        ("\n\n", ["", ""]),
        ("\ufeff/help\nx\ufeff\n", ["/help", "x\ufeff"]),  # as Windows begins a file
        ("a\u2028b\x0cc\n", ["a\u2028b\x0cc"]),
    ],
)
def test_lines_of_a_pipe(monkeypatch, capsys, text, messages):
    monkeypatch.setattr(sys, "stdin", io.StringIO(text))
    assert list(read_messages()) == messages
    assert capsys.readouterr() == ("", "")


def test_bytes_that_are_no_text_come_through_to_be_refused(monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"a\xff\nb\n"), "utf-8"))
    assert list(read_messages()) == ["a\udcff", "b"]


@pytest.fixture
def typed(monkeypatch, tmp_path):
    """Makes a terminal in which something is typed: lines, or what happens instead of one."""
    monkeypatch.setenv("MEDUSA_JAX_CACHE", str(tmp_path))
    prompts = []

    def make(*lines, stdout=Terminal):
        script = iter(lines)

        def read(prompt):
            prompts.append(prompt)
            line = next(script)
            if isinstance(line, str):
                return line
            raise line

        monkeypatch.setattr(builtins, "input", read)
        monkeypatch.setattr(sys, "stdin", Terminal())
        monkeypatch.setattr(sys, "stdout", stdout())
        return prompts

    return make


def test_a_terminal_shows_where_a_message_begins_and_goes_on(typed):
    prompts = typed("one\\", "two", "three", EOFError())
    assert list(read_messages()) == ["one\ntwo", "three"]
    assert prompts == ["> ", "... ", "> ", "> "]


def test_ctrl_c_gives_up_what_has_been_typed(typed):
    prompts = typed("one\\", KeyboardInterrupt(), "two", KeyboardInterrupt(), EOFError())
    assert list(read_messages()) == ["two"]
    assert prompts == ["> ", "... ", "> ", "> ", "> "]


def test_the_prompt_stays_out_of_a_file(typed, capsys):
    prompts = typed("one", EOFError(), stdout=io.StringIO)
    assert list(read_messages()) == ["one"]
    assert prompts == ["", ""]
    assert capsys.readouterr().err == "> > \n"
