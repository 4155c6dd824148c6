"""A conversation in a real terminal: prompt, colours, Ctrl-C, Ctrl-D, history."""

import os
import re
import select
import subprocess
import sys
from pathlib import Path

import pytest

import medusa_jax

ROOT = Path(__file__).resolve().parents[2]
TITLE = re.compile(r"\x1b\]0;([\d.]+) tokens per step(?:, [\d.]+ tokens/s)?\x07")
COLOUR = re.compile(r"\x1b\[3[56]m(.*?)\x1b\[0m", re.DOTALL)


class Terminal:
    """A process in a terminal of its own."""

    def __init__(self, argv, environment):
        # Ctrl-C is for a terminal's foreground group, which a new session with it begins.
        begin = "import fcntl, os, sys, termios; os.setsid(); fcntl.ioctl(0, termios.TIOCSCTTY, 0)"
        begin += "; import signal; signal.signal(signal.SIGINT, signal.SIG_DFL)"
        begin += "; os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
        self.screen, child = os.openpty()
        self.shown = ""
        self.process = subprocess.Popen(
            [sys.executable, "-c", begin, *argv],
            cwd=ROOT,
            env=environment,
            stdin=child,
            stdout=child,
            stderr=child,
        )
        os.close(child)

    def until(self, text):
        """What is shown up to some text; fails when the process ends or hangs before."""
        while text not in self.shown:
            ready, _, _ = select.select([self.screen], [], [], 600)
            assert ready, self.shown
            self.shown += os.read(self.screen, 4096).decode(errors="replace")
        before, _, self.shown = self.shown.partition(text)
        return before

    def type(self, text):
        os.write(self.screen, text.encode())

    def interrupt(self, text):
        """Ctrl-C until some text is shown: readline misses one that comes before it waits."""
        for _ in range(60):
            if text in self.shown:
                break
            self.type("\x03")
            while select.select([self.screen], [], [], 5)[0] and text not in self.shown:
                self.shown += os.read(self.screen, 4096).decode(errors="replace")
        self.until(text)


@pytest.fixture
def terminal(cli, chat_model, heads):
    argv = ["-m", "infer.chat", f"--model={chat_model}", f"--medusa={heads}", "--tree=chain:2"]
    shell = Terminal(
        [*argv, "--max_new_tokens=16"],
        cli.environment | {"TERM": "xterm-256color", "COLUMNS": "200"},
    )
    yield shell
    shell.process.kill()
    shell.process.wait()
    os.close(shell.screen)


def test_a_conversation_in_a_terminal(terminal, cli, chat_model, heads):
    lm = medusa_jax.load(str(chat_model), str(heads), dtype="float32", tree="chain:2")
    message = {"role": "user", "content": "Once \nupon"}
    (result,) = medusa_jax.generate(lm, [[message]], max_new_tokens=16)
    assert "Ctrl-C stops an answer" in terminal.until("> ")
    terminal.type("never said\\\n")
    terminal.until("... ")
    terminal.interrupt("> ")
    terminal.type("Once \\\n")
    terminal.until("... ")
    terminal.type("upon\n")
    answer = terminal.until("tokens/step")
    coloured = "".join(COLOUR.findall(answer))
    assert coloured == result.text.replace("\n", "")  # line ends have no colour
    titles = TITLE.findall(answer)
    assert len(titles) == result.num_steps
    assert float(titles[-1]) == pytest.approx((result.num_new_tokens - 1) / result.num_steps, 0.01)
    terminal.until("> ")
    terminal.type("\x04")
    assert terminal.process.wait(timeout=600) == 0
    history = Path(cli.environment["MEDUSA_JAX_CACHE"]) / "chat_history"
    assert "upon" in history.read_text().splitlines()
