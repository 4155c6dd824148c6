"""What every command line shares: exit codes, errors and warnings in one line each."""

import io
import subprocess
import sys
import warnings

import jax
import pytest
from absl import flags
from absl.testing import flagsaver

from medusa_jax.cli.run import _flag_help, run_main
from medusa_jax.errors import UserError
from tests.commands import ROOT, quick


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


def test_a_device_without_memory_is_one_line(monkeypatch, capsys):
    """As JAX says it of a GPU."""
    text = "RESOURCE_EXHAUSTED: Out of memory while trying to allocate 21.50GiB.\n  at some place"

    def main(argv):
        raise jax.errors.JaxRuntimeError(text)

    assert run(main, monkeypatch) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: the device has no memory left for 21.50GiB more: smaller batches")
    assert err.count("\n") == 1


def test_devices_that_are_not_there_are_one_line(monkeypatch, capsys):
    def main(argv):
        jax.devices("abacus")

    monkeypatch.setenv("JAX_PLATFORMS", "abacus")
    assert run(main, monkeypatch) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: JAX cannot use the devices that JAX_PLATFORMS=abacus asks for (")
    assert err.endswith(": install jax for them, free them, or unset it\n")
    assert err.count("\n") == 1


def test_other_errors_of_a_device_keep_their_traceback(monkeypatch):
    def main(argv):
        raise jax.errors.JaxRuntimeError("INTERNAL: a bug")

    monkeypatch.setattr(sys, "argv", ["command"])
    with pytest.raises(jax.errors.JaxRuntimeError, match="a bug"):
        run_main(main)


def test_unexpected_arguments_are_refused(monkeypatch, capsys):
    assert run(lambda argv: None, monkeypatch, "hello") == 2
    assert capsys.readouterr().err == "error: unexpected argument 'hello': see --help\n"


PROGRAM = """
from medusa_jax.cli.run import run_main
from medusa_jax.cli.console import make_console, note
run_main(lambda argv: (note("dim"), make_console().print("text")))
"""


@pytest.mark.parametrize(
    ("streams", "code", "shown"),
    [
        ("", 0, ("text\n", "dim\n")),
        (">/dev/full", 2, ("", "dim\nerror: cannot write (No space left on device): make room\n")),
        ("| true; exit ${PIPESTATUS[0]}", 141, ("", "dim\n")),
        ("2> >(exec 0<&-); exit $?", 0, ("text\n", "")),
        ("<&- >&- 2>&-", 0, ("", "")),
    ],
)
def test_streams_that_nobody_reads_and_that_take_nothing(streams, code, shown):
    done = subprocess.run(
        ["bash", "-c", f'"$0" -c "$1" {streams}', sys.executable, PROGRAM],
        env=quick(),
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, (done.stdout, done.stderr)) == (code, shown)


def test_help_shows_lists_as_they_are_written():
    values = flags.FlagValues()
    flags.DEFINE_list("sizes", ["1", "4"], "Sizes.", flag_values=values)
    flags.DEFINE_multi_string("stop", [], "Stops.", flag_values=values)
    assert _flag_help(values["sizes"]).endswith("Sizes. Default: 1,4.")
    assert _flag_help(values["stop"]).endswith("Stops.")


def test_text_that_stdout_cannot_encode_is_shown_as_far_as_it_can(monkeypatch):
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="ascii"))

    def main(argv):
        del argv
        print("déjà")

    assert run(main, monkeypatch) == 0
    assert written.getvalue() == b"d?j?\n"
