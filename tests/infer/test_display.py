import io
import itertools
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

import medusa_jax
from infer import display
from medusa_jax.decoding.results import StreamEvent

ROOT = Path(__file__).resolve().parents[2]
PROMPT = "Once upon a time"
NUM_TOKENS = 40
COLOUR = re.compile(r"\x1b\[(\d+)m(.*?)\x1b\[0m", re.DOTALL)


def in_terminal(cli, argv: list[str], **variables: str) -> str:
    """What the command writes to a terminal on stdout; stderr goes elsewhere."""
    parent, child = os.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "infer.generate", *argv],
        cwd=ROOT,
        env=cli.environment | {"TERM": "xterm-256color"} | variables,
        stdin=subprocess.DEVNULL,
        stdout=child,
        stderr=subprocess.DEVNULL,
    )
    os.close(child)
    written = b""
    try:
        while chunk := os.read(parent, 4096):
            written += chunk
    except OSError:  # how Linux reports the end of a terminal
        pass
    os.close(parent)
    assert process.wait(timeout=900) == 0
    return written.decode().replace("\r\n", "\n")


@pytest.fixture
def argv(stories260k, heads):
    flags = {"model": stories260k, "medusa": heads, "prompt": PROMPT, "tree": "mc_sim_7b_63:16"}
    return [*(f"--{k}={v}" for k, v in flags.items()), f"--max_new_tokens={NUM_TOKENS}"]


@pytest.fixture(scope="module")
def events(lm):
    return list(medusa_jax.stream(lm, PROMPT, max_new_tokens=NUM_TOKENS))


def test_a_terminal_shows_each_step_in_a_colour_of_its_own(cli, argv, events):
    shown = COLOUR.findall(in_terminal(cli, argv))
    assert [piece for _, piece in shown] == [event.text for event in events if event.text]
    colours = [colour for colour, _ in shown]
    assert len(set(colours)) == 2
    assert all(a != b for a, b in itertools.pairwise(colours))


def test_no_color_means_plain_text(cli, argv, events):
    assert in_terminal(cli, argv, NO_COLOR="1") == events[-1].result.text + "\n"


def test_what_streaming_held_back_comes_with_the_end(capsys):
    printer = display.StepPrinter()
    for piece in ("Once", "", " upon"):
        printer.add(piece)
    printer.finish("Once upon \ufffd")
    assert capsys.readouterr().out == "Once upon \ufffd\n"


def test_text_is_never_taken_for_markup(capsys):
    printer = display.StepPrinter()
    printer.add("[bold]x[/bold] :smile: \t|")
    printer.finish("[bold]x[/bold] :smile: \t|")
    assert capsys.readouterr().out == "[bold]x[/bold] :smile: \t|\n"


def test_a_bar_in_a_terminal_needs_no_remark(monkeypatch):
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=100)
    monkeypatch.setattr(display, "make_console", lambda **_: console)
    with display.progress_bar() as bar:
        task = bar.add_task("Measuring", total=2)
        bar.update(task, advance=1, refresh=True)
        bar.update(task, advance=1, refresh=True, remark="[b]1.2x")
    assert all(text in screen.getvalue() for text in ("Measuring", "1/2", "2/2", "[b]1.2x"))


def test_the_first_step_may_wait_for_the_compiler(monkeypatch):
    titles, seconds = [], iter([60.0, 60.5, 61.0])
    monkeypatch.setattr(Console, "set_window_title", lambda _, title: titles.append(title))
    monkeypatch.setattr(display.time, "perf_counter", lambda: next(seconds))
    rates = display.LiveRates()
    for count in (3, 2, 4):
        rates.add(StreamEvent(0, "", count * [1]))
    assert titles == [
        "3.00 tokens per step",
        "2.50 tokens per step, 4.0 tokens/s",
        "3.00 tokens per step, 6.0 tokens/s",
    ]
