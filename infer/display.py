"""What a person sees: texts on stdout, everything about them on stderr."""

import dataclasses
import os
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import jax
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from medusa_jax import Generation, MedusaLM

_STEP_STYLES = ("cyan", "magenta")


def make_console(*, stderr: bool = False) -> Console:
    """A console that colours only in a terminal, and never under NO_COLOR."""
    plain = bool(os.environ.get("NO_COLOR"))
    return Console(stderr=stderr, color_system=None if plain else "auto", highlight=False)


def note(message: str) -> None:
    """One line on stderr."""
    make_console(stderr=True).print(Text(message, "dim"), soft_wrap=True)


def describe_model(lm: MedusaLM, name: str) -> None:
    """Says on stderr what is about to decode."""
    heads = "no heads"
    if lm.heads_config is not None:
        heads = f"{lm.heads_config.num_heads} heads, tree of {lm.tree.R} nodes"
        if lm.tree.max_depth == 0:
            heads = "plain decoding, the fastest here (--tree mc_sim_7b_63 uses the heads)"
    note(f"{name}: {lm.dtype} on {jax.default_backend()}, {heads}")


def announce_prompt(number: int, total: int) -> None:
    """Separates the texts of several prompts, on stderr."""
    if total > 1:
        note(f"--- prompt {number} of {total}")


def progress_bar() -> Progress:
    """A bar on stderr, in a terminal only, that leaves nothing behind.

    It moves with each answer: a thread that kept it moving would disturb what is measured.
    """
    console = make_console(stderr=True)
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        auto_refresh=False,
        disable=not console.is_terminal,
    )


def waiting(message: str) -> AbstractContextManager[Any]:
    """A sign of life on stderr, in a terminal only, gone before the first text."""
    console = make_console(stderr=True)
    return console.status(message) if console.is_terminal else nullcontext()


class StepPrinter:
    """Prints an answer on stdout as it grows; in a terminal the colour changes with every step."""

    def __init__(self) -> None:
        self._console = make_console()
        self.coloured = self._console.is_terminal and self._console.color_system is not None
        self._shown: list[str] = []

    def add(self, piece: str) -> None:
        """Prints what one step added."""
        if not piece:
            return
        style = _STEP_STYLES[len(self._shown) % len(_STEP_STYLES)]
        if self.coloured:
            self._console.print(Text(piece, style), end="", soft_wrap=True)
        else:  # the very characters, for whoever reads the pipe
            self._console.file.write(piece)
        self._console.file.flush()
        self._shown.append(piece)

    def finish(self, text: str) -> None:
        """Prints what is missing of the text, such as an unfinished character, and a line end."""
        shown = "".join(self._shown)
        self.add(text.removeprefix(shown) if text.startswith(shown) else "")
        print_text("")


def print_text(text: str) -> None:
    """A whole answer on stdout."""
    print(text, flush=True)


@dataclasses.dataclass(frozen=True)
class Totals:
    """Sums over answers.

    Attributes:
      tokens: new tokens.
      steps: backbone passes after prefill.
      seconds: decoding, all batches.
      compile_seconds: all batches.
    """

    tokens: int
    steps: int
    seconds: float
    compile_seconds: float

    @property
    def tokens_per_step(self) -> float:
        """What one pass yields."""
        return self.tokens / max(self.steps, 1)

    @property
    def tokens_per_second(self) -> float:
        """Speed of decoding."""
        return self.tokens / max(self.seconds, 1e-9)


def totals(results: Sequence[Generation], batch_size: int) -> Totals:
    """Sums answers that were decoded `batch_size` at a time: the rows of a batch share seconds."""
    batches = results[::batch_size]
    return Totals(
        tokens=sum(r.num_new_tokens for r in results),
        steps=sum(r.num_steps for r in results),
        seconds=sum(r.decode_seconds for r in batches),
        compile_seconds=sum(r.compile_seconds for r in batches),
    )


def closing_line(results: Sequence[Generation], batch_size: int) -> str:
    """Tokens, steps and speed of the answers together."""
    t = totals(results, batch_size)
    answers = f"{len(results)} answers, " if len(results) > 1 else ""
    compiling = (
        f", after compiling for {t.compile_seconds:.1f} s" if t.compile_seconds > 0.05 else ""
    )
    return (
        f"{answers}{t.tokens} tokens in {t.steps} steps: {t.tokens_per_step:.2f} tokens/step, "
        f"{t.tokens_per_second:.1f} tokens/s{compiling}"
    )
