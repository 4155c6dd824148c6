"""What every command line shares: exit codes, errors and warnings in one line each."""

import sys
import warnings

import pytest
from absl.testing import flagsaver

from medusa_jax.cli import run_main
from medusa_jax.errors import UserError


def run(main, monkeypatch, *argv):
    """Exit code of a command line."""
    monkeypatch.setattr(sys, "argv", ["command", *argv])
    monkeypatch.setattr(warnings, "filters", [("default", None, Warning, None, 0)])
    with flagsaver.flagsaver(), pytest.raises(SystemExit) as stop:
        run_main(main)
    return stop.value.code


def test_a_warning_is_one_line_on_stderr_without_the_source(monkeypatch, capsys):
    before = warnings.showwarning

    def main(argv):
        del argv
        warnings.warn("no heads here:\n plain [bold]decoding[/bold] " + 200 * "x", stacklevel=1)
        print("text")

    assert run(main, monkeypatch) == 0
    out, err = capsys.readouterr()
    assert out == "text\n"
    assert err == "no heads here: plain [bold]decoding[/bold] " + 200 * "x" + "\n"
    assert warnings.showwarning is before


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (UserError("wrong:\n mend it"), 2, "error: wrong: mend it\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
    ],
)
def test_errors_are_one_line_and_a_code(monkeypatch, capsys, error, code, line):
    def main(argv):
        del argv
        raise error

    assert run(main, monkeypatch) == code
    assert capsys.readouterr() == ("", line)


def test_unexpected_arguments_are_refused(monkeypatch, capsys):
    assert run(lambda argv: None, monkeypatch, "hello") == 2
    assert capsys.readouterr().err == "error: unexpected argument 'hello': see --help\n"
